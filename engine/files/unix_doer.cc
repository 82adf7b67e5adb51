#include "engine/files/unix_doer.h"

#include <sys/socket.h>
#include <sys/syscall.h>

#include "engine/files/unix_name.h"
#include "kernel/call.h"

namespace stasis::engine::files {

void UnixDoer::listen(int socket, uint32_t backlog, const image::UnixDoerEntry&) {
  kernel::must(kernel::call(SYS_listen, socket, backlog), "listen on", "a unix socket");
}

void UnixDoer::connect(int socket, int target, const std::string& name,
                       const image::UnixDoerEntry&) {
  kernel::must(connect_to(socket, target, name), "connect to", shown_name(name));
}

std::array<UniqueFd, 2> UnixDoer::pair(uint32_t type, const image::UnixDoerEntry&) {
  int fds[2] = {-1, -1};
  kernel::must(kernel::call(SYS_socketpair, AF_UNIX, type | SOCK_CLOEXEC, 0, fds), "make",
               "a pair of unix sockets");
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

}  // namespace stasis::engine::files
