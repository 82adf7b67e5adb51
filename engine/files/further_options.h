// Options of internet sockets that CRIU's images have no place for: in stasis.img.
#pragma once

#include <cstdint>

#include "base/log.h"
#include "sockets.pb.h"
#include "stasis.pb.h"

namespace stasis::engine::files {

image::SocketOptionsEntry dump_further_options(int fd, const image::InetSkEntry& entry);

// Of a socket that has no address yet. What can't be set is told to `log`.
void restore_further_options(int fd, const image::InetSkEntry& entry,
                             const image::SocketOptionsEntry& options, Log& log);

}  // namespace stasis::engine::files
