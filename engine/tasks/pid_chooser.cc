#include "engine/tasks/pid_chooser.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "engine/tasks/clone_as.h"
#include "kernel/fs.h"

namespace stasis::engine {

PidChooser::PidChooser(pid_t init) {
  int ends[2];
  kernel::must(kernel::call(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends),
               "make a socket pair");
  channel_.reset(ends[0]);
  UniqueFd theirs(ends[1]);
  // The namespace that counts is the writer's, not the opener's.
  UniqueFd counter = kernel::open("/proc/sys/kernel/ns_last_pid", O_WRONLY);
  UniqueFd ns = kernel::open(fmt::format("/proc/{}/ns/pid", init), O_RDONLY);
  long pid = clone_into(ns.get(), 0, 0, [&] {
    channel_.reset();
    serve(theirs.get(), counter.get());
  });
  helper_ = static_cast<pid_t>(kernel::must(pid, "make a helper in", "the pid namespace"));
}

void PidChooser::serve(int channel, int counter) {
  kernel::call(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  for (;;) {
    pid_t id = 0;
    long n = kernel::call(SYS_read, channel, &id, sizeof id);
    if (n == -EINTR) continue;
    if (n != sizeof id) _exit(0);
    std::string text = std::to_string(id - 1);
    long result = kernel::call(SYS_pwrite64, counter, text.c_str(), text.size(), 0);
    int32_t answer = result < 0 ? static_cast<int32_t>(result) : 0;
    if (kernel::call(SYS_write, channel, &answer, sizeof answer) < 0) _exit(1);
  }
}

void PidChooser::next(pid_t id) {
  kernel::must(kernel::call(SYS_write, channel_.get(), &id, sizeof id), "ask the helper in",
               "the pid namespace");
  int32_t answer = -ECHILD;
  long n;
  do n = kernel::call(SYS_read, channel_.get(), &answer, sizeof answer);
  while (n == -EINTR);
  kernel::must(n, "hear from the helper in", "the pid namespace");
  kernel::must(answer, "choose process id", std::to_string(id));
}

PidChooser::~PidChooser() {
  channel_.reset();
  // It ends by itself; a frozen or misled one must not hold us.
  end_child(helper_);
}

}  // namespace stasis::engine
