// What a process holds open that cannot be written down: found by reading
// /proc alone, so that a dump can be refused before anything is touched.
#pragma once

#include <sys/types.h>

#include <vector>

#include "engine/plan.h"

namespace stasis::engine::files {

// One finding per descriptor that is in the way. A process that has ended
// meanwhile has none.
std::vector<Finding> obstacles(const std::vector<pid_t>& pids, const DumpPlan& plan);

}  // namespace stasis::engine::files
