// Places that mounts stand on, reached through the mount beneath them.
#pragma once

#include <linux/openat2.h>

#include <cstdint>

#include "base/unique_fd.h"
#include "engine/mounts/tree.h"

namespace stasis::engine::mounts {

// For openat2: never out of the mount that the directory is on.
constexpr uint64_t within_mount =
    RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;

bool is_directory(int fd);

// Both descriptors are of one file as one mount shows it.
bool is_same_place(int a, int b);

// Where node `i` stands on its parent, `parent` being a descriptor of the
// parent's root. Invalid where that is the root itself. Throws Error where
// nothing is there.
UniqueFd open_mountpoint(const Tree& tree, int i, int parent);

}  // namespace stasis::engine::mounts
