// Options of internet sockets that CRIU's images have no place for: in stasis.img.
#pragma once

#include "base/log.h"
#include "sockets.pb.h"
#include "stasis.pb.h"

namespace stasis::engine::files {

image::SocketOptionsEntry dump_further_options(int fd, const image::InetSkEntry& entry);

// Of a socket that has no address yet. What this kernel doesn't have or allow is told to `log`;
// throws Error where something else fails.
void restore_further_options(int fd, const image::InetSkEntry& entry,
                             const image::SocketOptionsEntry& options, Log& log);

}  // namespace stasis::engine::files
