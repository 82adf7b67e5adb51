#include "engine/tasks/task_copies.h"

#include <fmt/format.h>
#include <linux/close_range.h>
#include <linux/ptrace.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "engine/tasks/stub_site.h"
#include "kernel/fs.h"

namespace stasis::engine {

namespace {

// A child would be the init of a new one, and the only one.
bool has_other_namespace_for_children(const FrozenTask& task) {
  try {
    return kernel::read_link_at(task.proc.get(), "ns/pid_for_children") !=
           kernel::read_link_at(task.proc.get(), "ns/pid");
  } catch (const Error&) {
    return true;  // it has no init yet
  }
}

// The task clones itself; -errno where it can't. The clone is ours from birth. It
// never gets so far, but should we die before EXITKILL is set it ends itself by the
// next call of the batch, for which the kernel puts its own id there; the task's
// own finds nobody of that id.
long clone_itself(FrozenTask& task) {
  StubSite site = find_stub_site(task);
  HealingStub stub = stub_in(task, task.threads.front(), site);
  constexpr pid_t nobody = 0x7fffffff;
  const uint64_t victim =
      site.hole + sizeof(SyscallBatch::Entry) + offsetof(SyscallBatch::Entry, args);
  SyscallBatch batch;
  // Shared descriptors (until the clone leaves them) are not held open by it.
  auto clone =
      batch.may(SYS_clone, CLONE_FILES | CLONE_PTRACE | CLONE_CHILD_SETTID, 0, 0, victim, 0);
  batch.may(SYS_kill, nobody, SIGKILL);
  stub.run(batch);
  stub.finish();
  return batch.result(clone);
}

void call_in(Tracee& copy, const char* what, long nr, std::vector<uint64_t> args) {
  const uint64_t instruction = copy.registers().rip - 2;  // it has made one already
  kernel::must(copy.run_syscall(instruction, nr, std::move(args)), what,
               fmt::format("the copy {}", copy.tid()));
}

std::vector<std::pair<uint64_t, uint64_t>> shared_areas(const FrozenTask& task) {
  std::vector<std::pair<uint64_t, uint64_t>> all;
  for (const kernel::MappedArea& area : task.areas) {
    if (!area.shared) continue;
    if (!all.empty() && all.back().second == area.start)
      all.back().second = area.end;
    else
      all.emplace_back(area.start, area.end);
  }
  return all;
}

}  // namespace

TaskCopies::~TaskCopies() {
  try {
    end();
  } catch (const Error& error) {
    log_.warn("{}", error.what());
  }
}

void TaskCopies::prepare(FrozenTree& tree, const std::vector<FrozenTask*>& tasks) {
  std::set<pid_t> known;
  for (const FrozenTask& task : tree.tasks()) known.insert(task.pid);
  for (const FrozenTask* task : tasks)
    originals_.push_back(
        {task->pid, kernel::open(fmt::format("/proc/{}", task->pid), O_PATH | O_DIRECTORY), known});
  guard_ = std::make_unique<BurialGuard>(originals_);
}

std::optional<TaskCopies::Copy> TaskCopies::make(FrozenTask& task, Reports& reports,
                                                 std::string* why) {
  if (has_other_namespace_for_children(task)) {
    *why = "its children are to be in another pid namespace";
    return std::nullopt;
  }
  auto original = std::find_if(originals_.begin(), originals_.end(),
                               [&](const Original& o) { return o.pid == task.pid; });
  unclear_.push_back(&*original);
  long born = clone_itself(task);
  if (born < 0) {
    unclear_.pop_back();
    *why = fmt::format("clone: {}", strerror(static_cast<int>(-born)));
    return std::nullopt;
  }
  try {
    take_over(task, *original, reports);
  } catch (const Error& error) {
    *why = error.what();
    return std::nullopt;
  }
  unclear_.pop_back();
  return Copy{made_.back().tracee.tid(), made_.back().mem.get()};
}

void TaskCopies::take_over(FrozenTask& task, const Original& original, Reports& reports) {
  std::vector<pid_t> clones = strangers_of(original);
  if (clones.size() != 1) throw Error("copy", task.name()).because("its clone is not to be found");
  const pid_t pid = clones.front();
  Tracee tracee = Tracee::adopt(pid, reports);
  if (tracee.tid() == 0) throw Error("copy", task.name()).because("its clone was killed");
  constexpr long options = PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD;
  tracee.set_options(options);
  // Our calls in it are no business of its filters; refused to us under one.
  kernel::call(SYS_ptrace, PTRACE_SETOPTIONS, pid, 0, options | PTRACE_O_SUSPEND_SECCOMP);
  // Not to hold open what is closed meanwhile.
  call_in(tracee, "close the descriptors of", SYS_close_range, {0, ~0u, CLOSE_RANGE_UNSHARE});
  UniqueFd mem = kernel::open(fmt::format("/proc/{}/mem", pid), O_RDONLY);
  // Should memory run out all the same, it is the one to go.
  kernel::write_file(fmt::format("/proc/{}/oom_score_adj", pid), "1000");
  made_.push_back({std::move(tracee), std::move(mem), shared_areas(task)});
}

void TaskCopies::drop_shared_memory() {
  for (Made& made : made_)
    for (auto [start, end] : made.shared)
      call_in(made.tracee, "unmap shared memory of", SYS_munmap, {start, end - start});
}

void TaskCopies::end() {
  std::vector<pid_t> all;
  for (const Original* original : unclear_)
    for (pid_t pid : strangers_of(*original)) all.push_back(pid);
  unclear_.clear();
  for (Made& made : made_) {
    all.push_back(made.tracee.tid());
    made.tracee.forget();
  }
  made_.clear();
  for (pid_t pid : all)  // a call may fail once
    if (kernel::call(SYS_kill, pid, SIGKILL) < 0) kernel::call(SYS_kill, pid, SIGKILL);
  for (pid_t pid : all) {
    try {
      bury(pid);
    } catch (const Error&) {
      bury(pid);
    }
  }
  originals_.clear();
  guard_.reset();
}

}  // namespace stasis::engine
