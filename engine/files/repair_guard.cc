#include "engine/files/repair_guard.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel/call.h"

namespace stasis::engine::files {

namespace {

// Runs in the child of a process that may have threads: system calls only, and
// none that is counted as a step of ours.
[[noreturn]] void watch(int end, int leash, const std::vector<int>& sockets) {
  constexpr int off = TCP_REPAIR_OFF_NO_WP;
  ::close(leash);
  char word;
  long size;
  do size = ::recv(end, &word, 1, 0);
  while (size < 0);
  if (size == 0)
    for (int socket : sockets) ::setsockopt(socket, IPPROTO_TCP, TCP_REPAIR, &off, sizeof off);
  ::_exit(0);
}

}  // namespace

RepairGuard::RepairGuard(const std::vector<int>& sockets) {
  int ends[2];
  kernel::must(kernel::call(SYS_socketpair, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), "make",
               "a socket pair");
  UniqueFd end(ends[0]);
  leash_.reset(ends[1]);
  long child = kernel::must(kernel::call(SYS_clone, SIGCHLD, 0, 0, 0, 0), "make", "a process");
  if (child == 0) watch(end.get(), leash_.get(), sockets);
  guard_ = static_cast<pid_t>(child);
}

RepairGuard::~RepairGuard() {
  ::send(leash_.get(), "", 1, MSG_NOSIGNAL);
  ::waitpid(guard_, nullptr, 0);
}

}  // namespace stasis::engine::files
