// Peer groups and slaves of a tree that stands already, all private so far.
#pragma once

#include <vector>

#include "base/log.h"
#include "base/unique_fd.h"
#include "engine/mounts/tree.h"

namespace stasis::engine::mounts {

// `mounts`: of each node its mount. `sources`: of each external one and of the
// root the mount on the host that it was made from, a member of its peer group
// there; others are invalid. `namespaces`: by the nodes' space, where there is
// more than one; the caller's is the first, which it is in again afterwards,
// with / as its working directory.
void restore_propagation(const Tree& tree, const std::vector<UniqueFd>& mounts,
                         const std::vector<UniqueFd>& sources,
                         const std::vector<UniqueFd>& namespaces, Log& log);

}  // namespace stasis::engine::mounts
