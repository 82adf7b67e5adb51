// What the kernel tells of the unix sockets of one network namespace.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace stasis::engine::files {

struct UnixSocket {
  uint32_t inode = 0;
  int type = 0;          // SOCK_STREAM ...
  int state = 0;         // TCP_ESTABLISHED, TCP_LISTEN, TCP_CLOSE
  uint32_t peer = 0;     // inode; 0: none
  std::string name;      // path, or abstract name with its leading zero
  uint32_t waiting = 0;  // bytes to be read; of datagrams, those of the first
  int shutdown = 0;      // RCV_SHUTDOWN 1 | SEND_SHUTDOWN 2
};

using UnixSockets = std::map<uint32_t, UnixSocket>;  // by inode

// Of the network namespace of process `pid`, by sock_diag.
UnixSockets list_unix_sockets(pid_t pid);

// One message of the answer, without its netlink header.
UnixSocket parse_unix_socket(std::string_view message);

}  // namespace stasis::engine::files
