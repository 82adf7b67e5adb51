// Overlay file systems that the container mounted itself, of directories of its own: made anew
// from the same directories, once these are in their places.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "engine/mounts/spaces.h"
#include "engine/mounts/tree.h"
#include "mnt.pb.h"

namespace stasis::engine::mounts {

// What is wrong with such a mount, and what its user can do about it.
Error layered_refusal(const image::MntEntry& entry, std::string cause);

bool is_layered(const image::MntEntry& entry);

// Where the layers are in the mount's namespace. Throws Error naming the mount where one of them is
// told in a way that can't be followed, or where an option isn't known.
std::vector<std::string> layer_paths(const image::MntEntry& entry);

// Before the freeze: every layer is in the mount that the tree says it is in. Throws Error.
void check_layers(const Tree& tree, const std::vector<Space>& spaces);

// Mounts node `i`, whose layers' mounts are attached in the namespace's tree, on `place`: a
// directory of ours from which it can be copied. In a process whose root is its own.
void mount_layered(const Tree& tree, int i, const std::vector<UniqueFd>& mounts, int place);

}  // namespace stasis::engine::mounts
