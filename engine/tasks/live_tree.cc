#include "engine/tasks/live_tree.h"

#include <fmt/format.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>

#include "engine/tasks/signals.h"
#include "kernel/fs.h"
#include "kernel/proc_status.h"

namespace stasis::engine {

namespace {

using image::TaskImage;

// `pid` 0: whatever comes next.
void add_clone(SyscallBatch& batch, uint64_t flags, int exit_signal, pid_t pid) {
  SyscallBatch::Data wanted = batch.object(pid);
  clone_args args{};
  args.flags = flags | CLONE_PTRACE;
  args.exit_signal = static_cast<uint64_t>(exit_signal);
  args.set_tid_size = pid ? 1 : 0;
  SyscallBatch::Data data = batch.object(args);
  if (pid) batch.point(data, offsetof(clone_args, set_tid), wanted);
  batch.must("make a process or thread of", SYS_clone3, data, sizeof args);
}

pid_t ns_pid_of(pid_t tid) {
  auto status = kernel::parse_status(kernel::read_file(fmt::format("/proc/{}/status", tid)));
  return status.ns_pid.back();
}

// How a zombie ended, done again. A core file must not come of it.
SyscallBatch death(const TaskImage& task) {
  SyscallBatch batch;
  int status = static_cast<int>(task.core().exit_code());
  if (WIFSIGNALED(status)) {
    rlimit64 none{0, 0};
    batch.may(SYS_prlimit64, 0, RLIMIT_CORE, batch.object(none), nullptr);
    uint64_t mask = 0;
    batch.must("send a signal to", SYS_kill, pid_of(task), WTERMSIG(status));
    batch.must("unblock signals of", SYS_rt_sigprocmask, SIG_SETMASK, batch.object(mask), nullptr,
               8);
  }
  batch.must("end", SYS_exit_group, WEXITSTATUS(status));
  return batch;
}

// Only where the id could not be asked for.
[[noreturn]] void id_taken(Tracee& tracee, const std::string& who) {
  kernel::call(SYS_kill, tracee.tid(), SIGKILL);
  tracee.forget();
  throw Error("restore", who)
      .because("its process id was taken by another process meanwhile")
      .hint("start the container again, without an exec into it at the same time");
}

}  // namespace

std::string LiveTask::name() const { return name_of(*image); }

void LiveTree::check(const image::Checkpoint& checkpoint) { Births births(checkpoint); }

LiveTree::LiveTree(const image::Checkpoint& checkpoint, Trampoline& trampoline)
    : LiveTree(checkpoint, trampoline, {}) {}

LiveTree::LiveTree(const image::Checkpoint& checkpoint, Trampoline& trampoline, Custom custom)
    : checkpoint_(checkpoint),
      births_(checkpoint),
      trampoline_(trampoline),
      custom_(std::move(custom)) {}

LiveTree::~LiveTree() {
  for (LiveTask& task : tasks_) kernel::call(SYS_kill, task.pid, SIGKILL);
  for (LiveTask& task : tasks_)
    for (LiveThread& thread : task.threads) thread.tracee.forget();
}

void LiveTree::grow(Tracee root, pid_t root_pid) {
  const TaskImage& image = checkpoint_.root();
  LiveTask task{&image, root_pid, custom_.root_pgid, custom_.root_sid, {}};
  task.threads.push_back({std::move(root), root_pid, &image.threads.front(), pid_of(image)});
  tasks_.push_back(std::move(task));
  // The list grows while we walk it: parents before children.
  for (LiveTask& parent : tasks_) grow_children(parent);
  set_groups();
  // The last ones first: whoever made a helper is there to reap it.
  for (auto grown = tasks_.rbegin(); grown != tasks_.rend(); ++grown)
    if (births_.is_helper(*grown->image)) end_helper(*grown);
  tasks_.remove_if([&](const LiveTask& grown) { return births_.is_helper(*grown.image); });
  end_dead_tasks();
}

void LiveTree::grow_children(LiveTask& parent) {
  SyscallBatch batch;
  std::vector<const TaskImage*> cloned;
  std::vector<std::pair<pid_t, pid_t>> inherited;  // group and session at birth
  if (custom_.before_children && !births_.made_by(*parent.image).empty())
    custom_.before_children(parent);
  auto carry_out = [&] {
    trampoline_.run(parent.leader().tracee, batch, parent.name());
    adopt_children(parent, cloned, inherited);
    batch = {};
    cloned.clear();
    inherited.clear();
  };
  auto clone = [&](bool before_setsid) {
    for (const TaskImage* child : births_.made_by(*parent.image)) {
      if (births_.is_early(*child) != before_setsid) continue;
      if (custom_.choose_id) custom_.choose_id(pid_of(*child));
      add_clone(batch, 0, births_.is_helper(*child) ? 0 : SIGCHLD,
                custom_.choose_id ? 0 : pid_of(*child));
      cloned.push_back(child);
      inherited.emplace_back(parent.pgid, parent.sid);
      if (custom_.choose_id) carry_out();
    }
  };
  if (births_.is_early_reaper(*parent.image))
    batch.must("make a subreaper of", SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  clone(true);
  if (session_of(*parent.image) == pid_of(*parent.image) && parent.sid != pid_of(*parent.image)) {
    batch.must("make a session of", SYS_setsid);
    parent.sid = parent.pgid = pid_of(*parent.image);
    if (custom_.leads && !checkpoint_.terminals.empty()) {
      carry_out();
      custom_.leads(parent);
    }
  }
  clone(false);
  if (!batch.empty()) carry_out();
}

void LiveTree::adopt_children(LiveTask& parent, const std::vector<const TaskImage*>& children,
                              const std::vector<std::pair<pid_t, pid_t>>& groups) {
  for (size_t n = 0; n < children.size(); ++n) {
    Tracee tracee = Tracee::adopt_next();
    pid_t pid = tracee.tid(), ns_pid = ns_pid_of(pid);
    auto child = std::find_if(children.begin(), children.end(),
                              [&](const TaskImage* c) { return pid_of(*c) == ns_pid; });
    if (child == children.end()) id_taken(tracee, name_of(*children.front()));
    auto [group, session] = groups[static_cast<size_t>(child - children.begin())];
    LiveTask task{*child, pid, group, session, {}};
    task.threads.push_back({std::move(tracee), pid, &(*child)->threads.front(), ns_pid});
    task.memory = parent.memory;
    tasks_.push_back(std::move(task));
    if (custom_.born) custom_.born(tasks_.back());
  }
}

// Leaders of groups first, then those who join.
void LiveTree::set_groups() {
  for (bool leaders : {true, false})
    for (LiveTask& task : tasks_) {
      pid_t group = group_of(*task.image), pid = pid_of(*task.image);
      if (task.pgid == group || (group == pid) != leaders) continue;
      if (group == 0 || (&task == &tasks_.front() && !leaders)) continue;  // a group outside
      SyscallBatch batch;
      batch.must("set the process group of", SYS_setpgid, 0, group);
      trampoline_.run(task.leader().tracee, batch, task.name());
      task.pgid = group;
    }
}

void LiveTree::end(LiveTask& task) {
  SyscallBatch batch = death(*task.image);
  Tracee& tracee = task.leader().tracee;
  try {
    trampoline_.run(tracee, batch, task.name());
  } catch (const Error&) {
    // It has ended, as wanted, or stands at the signal that is to kill it.
  }
  if (tracee.tid() != 0) {
    tracee.resume(WTERMSIG(static_cast<int>(task.image->core().exit_code())));
    kernel::call(SYS_wait4, task.pid, nullptr, __WALL, nullptr);
    tracee.forget();
  }
  task.threads.clear();
}

void LiveTree::end_helper(LiveTask& helper) {
  end(helper);
  auto maker = std::find_if(tasks_.begin(), tasks_.end(), [&](const LiveTask& task) {
    return pid_of(*task.image) == parent_of(*helper.image);
  });
  SyscallBatch batch;
  batch.must("reap a helper of", SYS_wait4, pid_of(*helper.image), nullptr, __WALL, nullptr);
  trampoline_.run(maker->leader().tracee, batch, maker->name());
}

void LiveTree::end_dead_tasks() {
  for (LiveTask& task : tasks_)
    if (task.image->dead()) end(task);
}

void LiveTree::grow_threads(LiveTask& task) {
  if (task.image->threads.size() == 1) return;
  constexpr uint64_t flags =
      CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
  auto id_of = [&](size_t i) {
    return static_cast<pid_t>(task.image->tree.threads(static_cast<int>(i)));
  };
  size_t count = task.image->threads.size();
  auto adopt = [&] {
    Tracee tracee = Tracee::adopt_next();
    pid_t tid = tracee.tid(), ns_tid = ns_pid_of(tid);
    size_t i = 1;
    while (i < count && id_of(i) != ns_tid) ++i;
    if (i == count) id_taken(tracee, task.name());
    task.threads.push_back({std::move(tracee), tid, &task.image->threads[i], ns_tid});
  };
  SyscallBatch batch;
  for (size_t i = 1; i < count; ++i) {
    if (custom_.choose_id) {
      custom_.choose_id(id_of(i));
      batch = {};
    }
    add_clone(batch, flags, 0, custom_.choose_id ? 0 : id_of(i));
    if (!custom_.choose_id) continue;
    trampoline_.run(task.leader().tracee, batch, task.name());
    adopt();
  }
  if (custom_.choose_id) return;
  trampoline_.run(task.leader().tracee, batch, task.name());
  for (size_t i = 1; i < count; ++i) adopt();
}

std::map<pid_t, pid_t> LiveTree::pids() const {
  std::map<pid_t, pid_t> result;
  for (const LiveTask& task : tasks_) result[pid_of(*task.image)] = task.pid;
  return result;
}

void LiveTree::release() {
  for (LiveTask& task : tasks_)
    if (int signal = stop_signal(checkpoint_, *task.image))
      kernel::call(SYS_kill, task.pid, signal);
  // The init last: as long as we hold it our death is the death of all.
  for (auto task = tasks_.rbegin(); task != tasks_.rend(); ++task)
    for (auto thread = task->threads.rbegin(); thread != task->threads.rend(); ++thread)
      thread->tracee.detach();
  tasks_.clear();
}

}  // namespace stasis::engine
