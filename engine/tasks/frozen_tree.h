// The container's tasks, all stopped under our ptrace. Whatever happens, the
// destructor lets them go on as they were.
#pragma once

#include <list>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/unique_fd.h"
#include "core.pb.h"
#include "engine/plan.h"
#include "engine/remote/tracee.h"
#include "engine/tasks/freezer.h"
#include "kernel/proc_maps.h"
#include "kernel/proc_stat.h"
#include "kernel/proc_status.h"

namespace stasis::engine {

struct FrozenThread {
  Tracee tracee;
  pid_t tid = 0;        // in our pid namespace
  pid_t ns_tid = 0;     // in the container's
  int stop_signal = 0;  // what had stopped it before we came, or 0
  kernel::ProcStatus status;
  image::CoreEntry core;
};

struct FrozenTask {
  pid_t pid = 0, ns_pid = 0;
  pid_t ns_ppid = 0, ns_pgid = 0, ns_sid = 0;
  bool zombie = false;
  bool stopped = false;       // by a stop signal, before we came
  UniqueFd proc, pidfd, mem;  // /proc/PID, a pidfd, /proc/PID/mem; none for a zombie
  kernel::ProcStatus status;
  kernel::ProcStat stat;
  int dumpable = 1;  // PR_GET_DUMPABLE
  std::vector<kernel::MappedArea> areas;
  std::list<FrozenThread> threads;  // leader first; empty for a zombie

  std::string name() const;  // "process 17 (nginx)"; "process 17" as long as no more is known
};

class FrozenTree {
 public:
  FrozenTree(const DumpPlan& plan, Log& log);
  ~FrozenTree();
  FrozenTree(const FrozenTree&) = delete;
  FrozenTree& operator=(const FrozenTree&) = delete;

  std::list<FrozenTask>& tasks() { return tasks_; }  // parents before children
  FrozenTask& root() { return tasks_.front(); }
  Reports& reports() { return reports_; }
  bool found_frozen() const { return freezer_.found_frozen(); }

  // Throws where one of them was killed since.
  void check_alive();
  void release();  // all go on, together
  void kill();     // all are dead when it returns

 private:
  void seize_all();
  void check_root() const;
  bool seize_new_tasks();
  FrozenTask* find(pid_t pid);
  bool seize_threads(FrozenTask& task);
  void add_children(const FrozenTask& task, std::vector<pid_t>& queue);
  void drop(const FrozenThread* thread);
  void wait_for_stops();
  void refuse_strangers();
  void describe(FrozenTask& task);

  const DumpPlan& plan_;
  Log& log_;
  Freezer freezer_;
  Reports reports_;
  std::list<FrozenTask> tasks_;
  std::vector<FrozenThread*> unstopped_;  // interrupted, stop not collected yet
  bool whole_ = false;                    // all are held
};

}  // namespace stasis::engine
