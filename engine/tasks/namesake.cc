#include "engine/tasks/namesake.h"

#include <linux/sched.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "base/scope_exit.h"
#include "engine/tasks/pid_chooser.h"
#include "kernel/fs.h"

namespace stasis::engine {

namespace {

long clone_as(pid_t pid) {
  if (pid == 0) return clone_high(CLONE_FILES);
  clone_args args{};
  args.flags = CLONE_FILES;
  args.set_tid = reinterpret_cast<uint64_t>(&pid);
  args.set_tid_size = 1;
  return kernel::call(SYS_clone3, &args, sizeof args);
}

}  // namespace

long as_process(int pid_namespace, pid_t pid, const std::function<long()>& action) {
  long at = kernel::must(kernel::call(SYS_mmap, 0, sizeof(long), PROT_READ | PROT_WRITE,
                                      MAP_SHARED | MAP_ANONYMOUS, -1, 0),
                         "make shared memory");
  ScopeExit unmap([&] { kernel::call(SYS_munmap, at, sizeof(long)); });
  auto& result = *reinterpret_cast<volatile long*>(at);
  result = -ECHILD;
  UniqueFd home = kernel::open("/proc/self/ns/pid", O_RDONLY);
  kernel::must(kernel::call(SYS_setns, pid_namespace, CLONE_NEWPID), "enter", "a pid namespace");
  long child = clone_as(pid);
  if (child == 0) {
    try {
      result = action();
    } catch (const Error& error) {
      result = error.code() ? -error.code() : -EIO;
    } catch (...) {
      result = -EIO;
    }
    _exit(0);
  }
  kernel::must(kernel::call(SYS_setns, home.get(), CLONE_NEWPID), "return to",
               "our own pid namespace");
  if (child < 0) return child;
  while (kernel::call(SYS_wait4, child, nullptr, __WALL, nullptr) == -EINTR) continue;
  return result;
}

}  // namespace stasis::engine
