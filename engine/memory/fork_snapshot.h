// Fork snapshot: of tasks that are to go on, private memory is written from copies
// of them after they have been let go, so that they stand still no longer than it
// takes to copy their page tables. What a copy can't have is written before: shared
// memory, MADV_DONTFORK, MADV_WIPEONFORK, huge pages of hugetlbfs; and all of a task
// that can't be copied.
#pragma once

#include <string>
#include <vector>

#include "base/log.h"
#include "engine/memory/areas.h"
#include "engine/memory/headroom.h"
#include "engine/memory/pages.h"
#include "engine/plan.h"
#include "engine/tasks/task_copies.h"

namespace stasis::engine {

// The private areas that a clone of the task has just so, ascending. Needs its areas.
std::vector<PageRange> areas_of_a_copy(const FrozenTask& task);

class ForkSnapshot {
 public:
  ForkSnapshot(const DumpPlan& plan, const cgroup::Hierarchies& hierarchies,
               const AreaReader& areas, Log& log);

  // Whether copies are wanted at all.
  bool wanted(const FrozenTree& tree) const;
  // Pages of the task that a copy has, too.
  void add(FrozenTask& task, std::vector<PageCopier::Piece> pieces);
  // Copies tasks; adds the pages of those that aren't copied to `now`.
  void take(FrozenTree& tree, PageCopier& now);

  // Once the tasks have been let go.
  void save(const std::function<void(uint64_t)>& progress);
  uint64_t bytes() const { return later_.bytes(); }
  size_t copied() const { return made_.size(); }             // tasks
  const std::string& obstacle() const { return obstacle_; }  // why one wasn't; the first

 private:
  struct Candidate {
    FrozenTask* task;
    std::vector<PageCopier::Piece> pieces;
    uint64_t bytes;
  };
  bool worthwhile(const Candidate& candidate) const;
  std::optional<TaskCopies::Copy> copy(Candidate& candidate, FrozenTree& tree);

  const DumpPlan& plan_;
  const AreaReader& areas_;
  Log& log_;
  Headroom headroom_;
  PageCopier later_;
  TaskCopies copies_;
  std::vector<Candidate> candidates_;
  std::vector<std::pair<pid_t, pid_t>> made_;  // task and copy
  std::string obstacle_;
};

}  // namespace stasis::engine
