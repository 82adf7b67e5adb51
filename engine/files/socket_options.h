// The options that all sockets have (SOL_SOCKET).
#pragma once

#include "sockets.pb.h"

namespace stasis::engine::files {

image::SkOptsEntry dump_socket_options(int fd);
void restore_socket_options(int fd, const image::SkOptsEntry& options);
// Part of that, for sockets that must have it before they are bound.
void restore_bound_device(int fd, const image::SkOptsEntry& options);

// As large as a queue can be that is to be filled before the options are restored.
void make_room(int fd);

}  // namespace stasis::engine::files
