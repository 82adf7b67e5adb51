#include "engine/files/dead_task.h"

#include <fmt/core.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/text.h"
#include "engine/mounts/tree.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

std::optional<pid_t> process_of(std::string path, const std::string& mountpoint) {
  if (!mounts::is_beneath(path, mountpoint)) return std::nullopt;
  path = mounts::relative_to(path, mountpoint);
  std::string_view rest = path;
  std::string_view id = text::next(rest, '/');
  auto pid = text::to_int<pid_t>(id);
  if (!pid || *pid <= 0) return std::nullopt;
  bool of_thread = text::next(rest, '/') == "task" && !rest.empty() && text::next(rest, '/') != id;
  return of_thread ? std::nullopt : pid;
}

Revenant::Revenant(pid_t init, pid_t id) {
  UniqueFd ns = kernel::open(fmt::format("/proc/{}/ns/pid", init), O_RDONLY);
  UniqueFd home = kernel::open("/proc/self/ns/pid", O_RDONLY);
  kernel::must(kernel::call(SYS_setns, ns.get(), CLONE_NEWPID), "enter", "the pid namespace");
  clone_args args{};
  args.set_tid = reinterpret_cast<uint64_t>(&id);
  args.set_tid_size = 1;
  long pid = kernel::call(SYS_clone3, &args, sizeof args);
  if (pid == 0)
    for (;;) pause();
  long back = kernel::call(SYS_setns, home.get(), CLONE_NEWPID);
  pid_ = static_cast<pid_t>(kernel::must(pid, "make a process with id", std::to_string(id)));
  if (back < 0) end();
  kernel::must(back, "return to", "our own pid namespace");
}

Revenant::~Revenant() { end(); }

void Revenant::end() const {
  kernel::call(SYS_kill, pid_, SIGKILL);
  while (kernel::call(SYS_wait4, pid_, nullptr, __WALL, nullptr) == -EINTR) continue;
}

}  // namespace stasis::engine::files
