// Removes children that tasks have by our doing and don't know of.
#pragma once

#include <list>
#include <set>

#include "base/unique_fd.h"
#include "engine/tasks/frozen_tree.h"

namespace stasis::engine {

// A task that may have such children.
struct Original {
  pid_t pid;
  UniqueFd proc;          // /proc/PID
  std::set<pid_t> known;  // the container's own processes
};

// Its children that the container didn't make: unknown, and sending no signal at
// their end.
std::vector<pid_t> strangers_of(const Original& original);

// Waits some time for the end of `child`, which was killed, and has its parent wait
// for it, by a system call there. Throws where that fails; does nothing to one that
// ended otherwise, or is gone.
void bury(pid_t child);

// A process that does so for all strangers of `originals` when the engine, which
// traces them, is killed.
class BurialGuard {
 public:
  explicit BurialGuard(const std::list<Original>& originals);
  BurialGuard(const BurialGuard&) = delete;
  BurialGuard& operator=(const BurialGuard&) = delete;
  ~BurialGuard();

 private:
  pid_t pid_ = 0;
};

}  // namespace stasis::engine
