#include "engine/tasks/frozen_tree.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/ptrace.h>
#include <signal.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <set>

#include "kernel/fs.h"
#include "kernel/proc_misc.h"

namespace stasis::engine {

namespace {

// Up to here seizing one by one is faster than the freezer.
constexpr unsigned few_threads = 32;

std::string proc_path(pid_t pid) { return "/proc/" + std::to_string(pid); }

// A file of /proc/PID; nothing when the task has just ended.
std::optional<std::string> read_if_there(int dir, const std::string& path) {
  try {
    return kernel::read_file_at(dir, path);
  } catch (const Error& error) {
    if (error.code() == ENOENT || error.code() == ESRCH) return std::nullopt;
    throw;
  }
}

unsigned count_threads(const std::vector<pid_t>& processes) {
  unsigned threads = 0;
  for (pid_t pid : processes) {
    try {
      threads += kernel::parse_stat(kernel::read_file(proc_path(pid) + "/stat")).num_threads;
    } catch (const Error&) {
      // It ended meanwhile.
    }
  }
  return threads;
}

}  // namespace

std::string FrozenTask::name() const {
  return status.name.empty() ? fmt::format("process {}", pid)
                             : fmt::format("process {} ({})", pid, status.name);
}

FrozenTree::FrozenTree(const DumpPlan& plan, Log& log)
    : plan_(plan), log_(log), freezer_(plan.freeze_cgroup) {
  bool many = freezer_.available() && !freezer_.found_frozen() &&
              count_threads(Freezer::processes(plan.freeze_cgroup)) > few_threads;
  if (many) freezer_.freeze();
  try {
    seize_all();
    for (FrozenTask& task : tasks_) describe(task);
    refuse_strangers();
    whole_ = true;
  } catch (const Error&) {
    check_alive();
    throw;
  }
}

FrozenTree::~FrozenTree() {
  try {
    release();
  } catch (const Error&) {
    // Nothing more can be done for a task that cannot be let go.
  }
}

FrozenTask* FrozenTree::find(pid_t pid) {
  for (FrozenTask& task : tasks_)
    if (task.pid == pid) return &task;
  return nullptr;
}

// Passes over the whole tree until one finds nothing new: what we hold cannot
// make new tasks. A frozen cgroup is thawed between the first pass and the
// waiting, as stops are not reported before.
void FrozenTree::seize_all() {
  seize_new_tasks();
  check_root();
  freezer_.thaw();
  wait_for_stops();
  while (seize_new_tasks()) wait_for_stops();
  // Zombies that were reaped while their parents still ran.
  tasks_.remove_if([](const FrozenTask& task) {
    return task.zombie && !read_if_there(task.proc.get(), "status");
  });
  check_root();
}

void FrozenTree::check_root() const {
  if (tasks_.empty() || tasks_.front().pid != plan_.root || tasks_.front().zombie)
    throw Error("checkpoint", fmt::format("process {}", plan_.root)).because("it has ended");
}

bool FrozenTree::seize_new_tasks() {
  bool found = false;
  std::vector<pid_t> queue{plan_.root};
  for (size_t i = 0; i < queue.size(); ++i) {
    FrozenTask* task = find(queue[i]);
    if (!task) {
      FrozenTask fresh;
      fresh.pid = queue[i];
      long proc =
          kernel::call(SYS_open, proc_path(fresh.pid).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
      if (proc == -ENOENT) continue;
      fresh.proc.reset(static_cast<int>(kernel::must(proc, "open", proc_path(fresh.pid))));
      tasks_.push_back(std::move(fresh));
      task = &tasks_.back();
      found = true;
    }
    if (!task->zombie && seize_threads(*task)) found = true;
    add_children(*task, queue);
  }
  // What was ending is looked at anew: it is gone by then, or a zombie.
  tasks_.remove_if([](const FrozenTask& task) { return !task.zombie && task.threads.empty(); });
  return found;
}

bool FrozenTree::seize_threads(FrozenTask& task) {
  bool found = false;
  for (bool again = true; again;) {
    again = false;
    long fd = kernel::call(SYS_openat, task.proc.get(), "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd == -ENOENT || fd == -ESRCH) return found;
    UniqueFd dir(static_cast<int>(kernel::must(fd, "list the threads of", task.name())));
    for (pid_t tid : kernel::numeric_entries(dir.get(), "task")) {
      bool known = std::any_of(task.threads.begin(), task.threads.end(),
                               [&](const FrozenThread& t) { return t.tid == tid; });
      if (known) continue;
      auto text = read_if_there(dir.get(), std::to_string(tid) + "/stat");
      if (!text) continue;
      auto stat = kernel::parse_stat(*text);
      if (stat.state == 'Z' || stat.state == 'X') {
        if (tid == task.pid && task.threads.empty() && stat.num_threads <= 1) task.zombie = true;
        continue;
      }
      FrozenThread thread{Tracee::try_seize(tid, 0, &reports_), tid, 0, 0, {}, {}};
      found = again = true;
      if (thread.tracee.tid() == 0) continue;  // ending: the next pass finds it gone or a zombie
      thread.tracee.interrupt();
      auto at = tid == task.pid ? task.threads.begin() : task.threads.end();
      auto placed = task.threads.insert(at, std::move(thread));
      unstopped_.push_back(&*placed);
    }
  }
  return found;
}

void FrozenTree::add_children(const FrozenTask& task, std::vector<pid_t>& queue) {
  if (task.zombie) return;
  for (const FrozenThread& thread : task.threads)
    if (auto text = read_if_there(task.proc.get(), fmt::format("task/{}/children", thread.tid)))
      for (pid_t child : kernel::parse_children(*text)) queue.push_back(child);
}

void FrozenTree::wait_for_stops() {
  while (!unstopped_.empty()) {
    FrozenThread* thread = unstopped_.back();
    unstopped_.pop_back();
    if (auto stop = thread->tracee.wait_interrupted()) {
      thread->stop_signal = *stop;
      // Our calls in it are no business of its filters. Only now: while it ran it
      // would have been free of them. The kernel refuses it to us under a filter.
      kernel::call(SYS_ptrace, PTRACE_SETOPTIONS, thread->tid, 0, PTRACE_O_SUSPEND_SECCOMP);
    } else {
      drop(thread);
    }
  }
}

// A thread that ended before it stopped. Its process, when nothing is left of
// it, is looked at anew: it is gone, or a zombie.
void FrozenTree::drop(const FrozenThread* thread) {
  for (auto task = tasks_.begin(); task != tasks_.end(); ++task)
    for (auto t = task->threads.begin(); t != task->threads.end(); ++t) {
      if (&*t != thread) continue;
      task->threads.erase(t);
      if (task->threads.empty()) tasks_.erase(task);
      return;
    }
}

void FrozenTree::describe(FrozenTask& task) {
  task.status = kernel::parse_status(kernel::read_file_at(task.proc.get(), "status"));
  task.stat = kernel::parse_stat(kernel::read_file_at(task.proc.get(), "stat"));
  task.ns_pid = task.status.ns_tgid.back();
  task.ns_pgid = task.status.ns_pgid.back();
  task.ns_sid = task.status.ns_sid.back();
  if (const FrozenTask* parent = find(task.stat.ppid); parent && &task != &root())
    task.ns_ppid = parent->ns_pid;
  if (task.zombie) return;
  task.pidfd = kernel::pidfd_open(task.pid);
  task.mem = kernel::open_at(task.proc.get(), "mem", O_RDWR);
  for (FrozenThread& thread : task.threads) {
    thread.status = thread.tid == task.pid
                        ? task.status
                        : kernel::parse_status(kernel::read_file_at(
                              task.proc.get(), fmt::format("task/{}/status", thread.tid)));
    thread.ns_tid = thread.status.ns_pid.back();
  }
}

// A process in the container's cgroup that is not below its init (runc exec)
// would be lost without a word.
void FrozenTree::refuse_strangers() {
  if (!freezer_.available()) return;
  std::set<pid_t> known;
  for (const FrozenTask& task : tasks_) known.insert(task.pid);
  for (pid_t pid : Freezer::processes(plan_.freeze_cgroup)) {
    if (known.count(pid)) continue;
    throw Error("checkpoint", fmt::format("process {}", pid))
        .because(
            "it is in the container but not a descendant of its init (brought in by "
            "\"runc exec\" or the like)")
        .hint("end that process first");
  }
}

void FrozenTree::check_alive() {
  for (const FrozenTask& task : tasks_) {
    if (task.threads.empty()) continue;
    pid_t tid = task.threads.front().tid;  // a kill wakes them all
    if (whole_ ? is_held(tid) : !is_ending(tid)) continue;
    throw Error("checkpoint", task.name())
        .because("it was killed meanwhile")
        .hint("try again, if the container goes on without it");
  }
}

void FrozenTree::release() {
  freezer_.put_back();
  for (FrozenTask& task : tasks_)
    for (FrozenThread& thread : task.threads) {
      try {
        thread.tracee.detach();
      } catch (const Error& error) {
        if (error.code() != ESRCH) log_.warn("{}", error.what());  // ESRCH: it was killed
      }
    }
  tasks_.clear();
}

void FrozenTree::kill() {
  // The init's death takes the whole pid namespace with it, but it need not be
  // the init of one.
  std::set<pid_t> left;
  for (FrozenTask& task : tasks_) {
    if (!task.zombie) kernel::call(SYS_pidfd_send_signal, task.pidfd.get(), SIGKILL, nullptr, 0);
    for (FrozenThread& thread : task.threads) {
      if (thread.tracee.tid() != 0) left.insert(thread.tid);
      thread.tracee.forget();
    }
  }
  // A tracer is told of every thread's end and has to take note of it before
  // the parent can reap the process.
  try {
    for (pid_t tid : left) reports_.wait_for_end(tid);
  } catch (const Error&) {
    // Nobody is left, or they end with us.
  }
  tasks_.clear();
}

}  // namespace stasis::engine
