// What stands in the way of a checkpoint, seen from where a container is known:
// its mounts, its processes, the runtime's state, and what the engine finds.
#pragma once

#include <functional>
#include <vector>

#include "cli/plan.h"

namespace stasis::cli {

// `asked`: the plan of a checkpoint that is to be made; without one the usual.
std::vector<mountmap::MapFinding> findings_of(const Container& container,
                                              const std::string& runc_root,
                                              const engine::DumpPlan* asked = nullptr);

}  // namespace stasis::cli
