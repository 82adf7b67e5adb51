// What only sock_diag tells of internet sockets.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>

namespace stasis::engine::files {

// By inode: RCV_SHUTDOWN 1 | SEND_SHUTDOWN 2 of the UDP and UDP-Lite sockets of
// the network namespace of process `pid` that are bound.
std::map<uint32_t, int> udp_shutdowns(pid_t pid);

}  // namespace stasis::engine::files
