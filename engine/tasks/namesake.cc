#include "engine/tasks/namesake.h"

#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <cerrno>

#include "base/scope_exit.h"
#include "engine/tasks/clone_as.h"
#include "kernel/call.h"

namespace stasis::engine {

long as_process(int pid_namespace, pid_t pid, const std::function<long()>& action) {
  long at = kernel::must(kernel::call(SYS_mmap, 0, sizeof(long), PROT_READ | PROT_WRITE,
                                      MAP_SHARED | MAP_ANONYMOUS, -1, 0),
                         "make shared memory");
  ScopeExit unmap([&] { kernel::call(SYS_munmap, at, sizeof(long)); });
  auto& result = *reinterpret_cast<volatile long*>(at);
  result = -ECHILD;
  long child = clone_into(pid_namespace, pid, CLONE_FILES, [&] {
    try {
      result = action();
    } catch (const Error& error) {
      result = error.code() ? -error.code() : -EIO;
    } catch (...) {
      result = -EIO;
    }
  });
  if (child < 0) return child;
  while (kernel::call(SYS_wait4, child, nullptr, __WALL, nullptr) == -EINTR) continue;
  return result;
}

}  // namespace stasis::engine
