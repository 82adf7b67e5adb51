#include "engine/tasks/burial.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/ptrace.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <functional>

#include "base/scope_exit.h"
#include "engine/tasks/clone_as.h"
#include "engine/tasks/stub_site.h"
#include "kernel/fs.h"
#include "kernel/proc_misc.h"

namespace stasis::engine {

namespace {

// Whether it has ended in time; `pidfd` tells. A call may fail once.
bool wait_for_end(int pidfd, int seconds) {
  pollfd end{pidfd, POLLIN, 0};
  for (int failures = 0; failures < 2;) {
    timespec limit{seconds, 0};
    long ended = kernel::call(SYS_ppoll, &end, 1, seconds < 0 ? nullptr : &limit, nullptr, 8);
    if (ended >= 0) return ended > 0;
    if (ended != -EINTR) ++failures;
  }
  return false;
}

// One that was interrupted and not waited for can't be let go of yet.
void wait_for_stop(pid_t tid) noexcept {
  try {
    if (tid == 0 || is_held(tid)) return;
  } catch (const Error&) {
    return;
  }
  if (kernel::call(SYS_ptrace, PTRACE_INTERRUPT, tid, 0, 0) >= 0)
    kernel::call(SYS_wait4, tid, nullptr, __WALL, nullptr);
}

FrozenTask process(pid_t pid, int proc) {
  FrozenTask task;
  task.pid = pid;
  task.proc = kernel::open_at(proc, ".", O_PATH | O_DIRECTORY);
  return task;
}

// Holds the thread for `action`; whether it was there for that.
bool with_thread(FrozenTask& task, pid_t tid, const std::function<void(FrozenThread&)>& action) {
  FrozenThread thread{Tracee::try_seize(tid, 0), tid, 0, 0, {}, {}};
  if (thread.tracee.tid() == 0) return false;
  ScopeExit stopped([&] { wait_for_stop(thread.tracee.tid()); });
  thread.tracee.interrupt();
  if (!thread.tracee.wait_interrupted()) return false;
  kernel::call(SYS_ptrace, PTRACE_SETOPTIONS, tid, 0, PTRACE_O_SUSPEND_SECCOMP);
  thread.status = kernel::parse_status(
      kernel::read_file_at(task.proc.get(), fmt::format("task/{}/status", tid)));
  thread.ns_tid = thread.status.ns_pid.back();
  task.status = thread.status;
  task.ns_pid = thread.status.ns_tgid.back();
  task.areas = kernel::parse_maps(kernel::read_file_at(task.proc.get(), "maps"));
  task.mem = kernel::open_at(task.proc.get(), "mem", O_RDWR);
  action(thread);
  thread.tracee.detach();
  return true;
}

void reap_in(pid_t pid, pid_t child) {
  auto status = kernel::parse_status(kernel::read_file(fmt::format("/proc/{}/status", child)));
  UniqueFd proc = kernel::open(fmt::format("/proc/{}", pid), O_PATH | O_DIRECTORY);
  FrozenTask parent = process(pid, proc.get());
  auto own = kernel::parse_status(kernel::read_file_at(proc.get(), "status"));
  const pid_t inside = status.ns_pid.at(own.ns_pid.size() - 1);
  auto reap = [&](FrozenThread& thread) {
    HealingStub stub = stub_in(parent, thread, find_stub_site(parent));
    // One that waits for all its children may have been first.
    stub.call(SYS_wait4, {static_cast<uint64_t>(inside), 0, WNOHANG | __WALL, 0});
    stub.finish();
  };
  UniqueFd threads = kernel::open_at(proc.get(), "task", O_RDONLY | O_DIRECTORY);
  for (pid_t tid : kernel::numeric_entries(threads.get(), "task"))
    if (with_thread(parent, tid, reap)) return;
}

// It may have been told to clone itself by an engine that was killed, and go on with that.
void finish_cloning(const Original& original) {
  FrozenTask task = process(original.pid, original.proc.get());
  with_thread(task, task.pid,
              [&](FrozenThread& thread) { leave_stub(thread.tracee, find_stub_site(task).place); });
}

// Closes all but `kept`, which are the container's and the engine's.
void close_others(const std::set<int>& kept) {
  unsigned first = 0;
  for (int fd : kept) {
    if (static_cast<unsigned>(fd) > first) kernel::call(SYS_close_range, first, fd - 1, 0);
    first = static_cast<unsigned>(fd) + 1;
  }
  kernel::call(SYS_close_range, first, ~0u, 0);
}

[[noreturn]] void stand_guard(int engine, const std::list<Original>& originals) {
  setsid();
  kernel::spare_this_process();
  std::set<int> kept{engine};
  for (const Original& original : originals) kept.insert(original.proc.get());
  close_others(kept);
  wait_for_end(engine, -1);  // which has killed its tracees then
  for (const Original& original : originals) {
    try {
      finish_cloning(original);
      for (pid_t child : strangers_of(original)) {
        kernel::call(SYS_kill, child, SIGKILL);  // one that came only now is stopped, as ours
        bury(child);
      }
    } catch (const std::exception&) {
      // It has ended.
    }
  }
  _exit(0);
}

}  // namespace

std::vector<pid_t> strangers_of(const Original& original) {
  std::vector<pid_t> found;
  UniqueFd threads = kernel::open_at(original.proc.get(), "task", O_RDONLY | O_DIRECTORY);
  for (pid_t tid : kernel::numeric_entries(threads.get(), "task"))
    for (pid_t child : kernel::parse_children(
             kernel::read_file_at(original.proc.get(), fmt::format("task/{}/children", tid)))) {
      if (original.known.contains(child)) continue;
      auto stat = kernel::find_stat(child);
      if (stat && stat->exit_signal == 0) found.push_back(child);
    }
  return found;
}

void bury(pid_t child) {
  constexpr int patience = 10;  // seconds; freeing much memory takes a while
  long pidfd = kernel::call(SYS_pidfd_open, child, 0);
  if (pidfd == -ESRCH) return;
  UniqueFd end(static_cast<int>(kernel::must(pidfd, "look at", fmt::format("process {}", child))));
  if (!wait_for_end(end.get(), patience))
    throw Error("remove", fmt::format("process {}", child))
        .because("it was killed and doesn't end");
  kernel::call(SYS_wait4, child, nullptr, WNOHANG | __WALL, nullptr);  // its tracer, if we are
  auto stat = kernel::find_stat(child);
  if (!stat || stat->state != 'Z' || stat->exit_code != SIGKILL) return;
  try {
    reap_in(stat->ppid, child);
  } catch (const Error&) {
    if (kernel::find_stat(stat->ppid)) throw;
  }
  if (auto left = kernel::find_stat(child); left && left->state == 'Z')
    throw Error("remove", fmt::format("process {}", child)).because("its parent can't wait for it");
}

BurialGuard::BurialGuard(const std::list<Original>& originals) {
  UniqueFd engine = kernel::pidfd_open(getpid());
  pid_ = fork();
  if (pid_ < 0) throw Error("start the guard process of", "the copies").with_errno(errno);
  if (pid_ == 0) stand_guard(engine.get(), originals);
}

BurialGuard::~BurialGuard() { end_child(pid_); }

}  // namespace stasis::engine
