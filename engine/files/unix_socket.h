// Unix sockets whose other end is outside of the container.
#pragma once

#include <optional>

#include "engine/files/file_kind.h"

namespace stasis::engine::files {

// Flag of an entry that stands for a socket outside of the container: where to connect again.
constexpr uint32_t unix_outside = 1;

// Why this socket can't be dumped, given that no process of the container has its peer.
std::optional<Objection> unix_peer_objection(const Probe& probe, const Surroundings& around);

// What is written of the peer itself.
image::FileEntry unix_peer_outside(uint32_t id, uint32_t inode, const Surroundings& around);

}  // namespace stasis::engine::files
