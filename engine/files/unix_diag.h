// What the kernel tells of the unix sockets of one network namespace.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace stasis::engine::files {

struct UnixSocket {
  uint32_t inode = 0;
  int type = 0;            // SOCK_STREAM ...
  int state = 0;           // TCP_ESTABLISHED, TCP_LISTEN, TCP_CLOSE
  uint32_t peer = 0;       // inode; 0: none
  bool lost_peer = false;  // it was connected to one that is closed
  std::string name;        // path, or abstract name with its leading zero
  uint32_t waiting = 0;    // bytes to be read; of datagrams, those of the first
  uint32_t unread = 0;     // memory of what its peer hasn't read; of one that listens: its backlog
  int shutdown = 0;        // RCV_SHUTDOWN 1 | SEND_SHUTDOWN 2
  // The file that it is bound to: the low half of its inode. 0: none.
  uint32_t file_inode = 0;
  unsigned file_major = 0, file_minor = 0;
  // Whose connections wait to be accepted, in their order; 0: closed since.
  std::vector<uint32_t> clients;
};

using UnixSockets = std::map<uint32_t, UnixSocket>;  // by inode

// Of the network namespace of process `pid` (0: ours), by sock_diag.
UnixSockets list_unix_sockets(pid_t pid);

// One message of the answer, without its netlink header.
UnixSocket parse_unix_socket(std::string_view message);

}  // namespace stasis::engine::files
