// What stands in the way of a checkpoint, seen from where a container is known:
// its mounts, its processes, the runtime's state, and what the engine finds.
#pragma once

#include <functional>
#include <vector>

#include "cli/plan.h"

namespace stasis::cli {

// `choose` puts what the caller has asked for into the plan.
std::vector<mountmap::MapFinding> findings_of(
    const Container& container, const std::string& runc_root,
    const std::function<void(engine::DumpPlan&)>& choose = [](engine::DumpPlan&) {});

}  // namespace stasis::cli
