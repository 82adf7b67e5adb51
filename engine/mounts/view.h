// Sight of what a mount of the container holds, also where other mounts cover
// it. Nothing changes in the container.
#pragma once

#include <vector>

#include "base/unique_fd.h"
#include "engine/mounts/spaces.h"

namespace stasis::engine::mounts {

// For each of `mounts`, of the namespace's table, the directory at its root,
// seen without the mounts that stand on it or cover it.
std::vector<UniqueFd> open_views(const Space& space,
                                 const std::vector<const mountmap::Mount*>& mounts);

// The same of one mount that may show a file instead, O_PATH; it must not be
// covered then.
UniqueFd open_view(const Place& place);

}  // namespace stasis::engine::mounts
