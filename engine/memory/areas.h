// The areas of a task with their flags, which /proc/PID/smaps tells only after it
// has looked at each page: 10 ms a GiB. Where there is much memory they are read
// before the freeze, believed as long as nothing else about the areas has changed,
// and verified once that costs nobody anything.
#pragma once

#include <map>
#include <vector>

#include "base/error.h"
#include "engine/plan.h"
#include "engine/tasks/frozen_tree.h"

namespace stasis::engine {

// What was believed wasn't so.
class AreasChanged : public Error {
 public:
  AreasChanged(pid_t pid, uint64_t address);
};

class AreaReader {
 public:
  // Before the freeze.
  void foresee(const DumpPlan& plan);

  std::vector<kernel::MappedArea> read(const FrozenTask& task);

  // Throws AreasChanged unless the areas that read() told are those in `proc`
  // (a directory like /proc/PID): the task's own, frozen still, or its copy's.
  void verify(pid_t pid, int proc, bool copy) const;

 private:
  std::map<pid_t, std::vector<kernel::MappedArea>> foreseen_;
  std::map<pid_t, std::vector<kernel::MappedArea>> believed_;
};

}  // namespace stasis::engine
