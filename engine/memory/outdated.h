// Mappings that show what a file was before: where a file of a lower layer was
// mapped and then copied up, its path leads to the copy, while the mapping goes
// on showing the original.
#pragma once

#include <vector>

#include "engine/memory/pages.h"
#include "engine/plan.h"

namespace stasis::engine {

// The parts of the task's private mappings whose pages come from another file
// than their path leads to now; ascending. Throws for shared ones, which can't
// be made again.
std::vector<PageRange> outdated_areas(const FrozenTask& task, const mountmap::MountTable& mounts);

}  // namespace stasis::engine
