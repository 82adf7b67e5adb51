// Sight of what a mount of the container holds, also where other mounts cover
// it. Nothing changes in the container.
#pragma once

#include <vector>

#include "base/unique_fd.h"
#include "engine/plan.h"

namespace stasis::engine::mounts {

// For each of `mounts`, of the plan's table, the directory at its root, seen
// without the mounts that stand on it or cover it.
std::vector<UniqueFd> open_views(const DumpPlan& plan,
                                 const std::vector<const mountmap::Mount*>& mounts);

}  // namespace stasis::engine::mounts
