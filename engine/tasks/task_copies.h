// Copies of frozen tasks: each clones itself, and the clone is stopped by the
// kernel before it runs anything and stays so. It holds the task's private memory
// as it was, while the task goes on.
//
// A copy is a child that its parent is not told of: its end sends no signal, and
// no wait finds it that doesn't ask for __WCLONE or __WALL. To be removed wholly
// it has to be waited for by its parent all the same, which one system call there
// does. Should the engine be killed the copies die with it.
#pragma once

#include <list>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/log.h"
#include "engine/tasks/burial.h"
#include "engine/tasks/frozen_tree.h"

namespace stasis::engine {

class TaskCopies {
 public:
  explicit TaskCopies(Log& log) : log_(log) {}
  // The tasks must have been let go, or ended, by then.
  ~TaskCopies();
  TaskCopies(const TaskCopies&) = delete;
  TaskCopies& operator=(const TaskCopies&) = delete;

  // What `tree` holds now is all that is known to be the container's own.
  void prepare(FrozenTree& tree, const std::vector<FrozenTask*>& tasks);

  struct Copy {
    pid_t pid;
    int mem;  // its /proc/PID/mem, owned by us
  };
  // Nothing where that can't be (limits on processes, memory); `why` tells.
  std::optional<Copy> make(FrozenTask& task, Reports& reports, std::string* why);

  // They keep nothing but private memory then: what is shared isn't held in use.
  void drop_shared_memory();

  // Ends all copies; nothing is left of them. The originals run.
  void end();

 private:
  struct Made {
    Tracee tracee;
    UniqueFd mem;
    std::vector<std::pair<uint64_t, uint64_t>> shared;  // start and end
  };

  void take_over(FrozenTask& task, const Original& original, Reports& reports);

  Log& log_;
  std::list<Original> originals_;
  std::list<Made> made_;
  std::list<const Original*> unclear_;  // may have a clone that isn't in made_
  std::unique_ptr<BurialGuard> guard_;
};

}  // namespace stasis::engine
