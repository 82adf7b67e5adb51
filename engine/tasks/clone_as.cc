#include "engine/tasks/clone_as.h"

#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "base/text.h"
#include "kernel/fs.h"

namespace stasis::engine {

namespace {

constexpr int tries = 64;

// High ids: a container counts up from 1, and the process must not take one that is wanted.
long clone_high(uint64_t flags) {
  auto highest = text::to_int<int>(text::trim(kernel::read_file("/proc/sys/kernel/pid_max")));
  pid_t wanted = highest.value_or(32768);
  for (int i = 0; i < tries; ++i) {
    --wanted;
    long pid = clone_as(wanted, flags);
    if (pid == -EINVAL && wanted > 32768)
      wanted = 32768;  // the namespace has a pid_max of its own
    else if (pid != -EEXIST)
      return pid;
  }
  return -EEXIST;
}

}  // namespace

long clone_as(pid_t pid, uint64_t flags, uint64_t exit_signal) {
  clone_args args{};
  args.flags = flags;
  args.exit_signal = exit_signal;
  args.set_tid = reinterpret_cast<uint64_t>(&pid);
  args.set_tid_size = 1;
  return kernel::call(SYS_clone3, &args, sizeof args);
}

long clone_into(int pid_namespace, pid_t pid, uint64_t flags, const std::function<void()>& work) {
  UniqueFd home = kernel::open("/proc/self/ns/pid", O_RDONLY);
  kernel::must(kernel::call(SYS_setns, pid_namespace, CLONE_NEWPID), "enter", "the pid namespace");
  long made = pid == 0 ? clone_high(flags) : clone_as(pid, flags);
  if (made == 0) {
    work();
    _exit(0);
  }
  long back = kernel::call(SYS_setns, home.get(), CLONE_NEWPID);
  if (back < 0 && made > 0) end_child(static_cast<pid_t>(made));
  kernel::must(back, "return to", "our own pid namespace");
  return made;
}

void end_child(pid_t child) noexcept {
  // As long as nobody has reaped it the id is its own, and neither call fails for good.
  for (;;) {
    long ended = kernel::call(SYS_wait4, child, nullptr, WNOHANG | __WALL, nullptr);
    if (ended == child || ended == -ECHILD) return;
    if (ended == 0 && kernel::call(SYS_kill, child, SIGKILL) == 0)
      kernel::call(SYS_wait4, child, nullptr, __WALL, nullptr);
  }
}

}  // namespace stasis::engine
