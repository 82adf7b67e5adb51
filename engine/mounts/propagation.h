// Peer groups and slaves of a tree that stands already, all private so far.
#pragma once

#include <functional>
#include <vector>

#include "base/log.h"
#include "base/unique_fd.h"
#include "engine/mounts/tree.h"

namespace stasis::engine::mounts {

// A new, private mount in the first namespace that shows all of what the group
// says that its members show parts of.
using WideMount = std::function<UniqueFd(const Group&)>;

// `mounts`: of each node its mount. `sources`: of each external one and of the
// root the mount on the host that it was made from, a member of its peer group
// there; others are invalid. `namespaces`: by the nodes' space, where there is
// more than one; the caller's is the first, which it is in again afterwards,
// with / as its working directory.
void restore_propagation(const Tree& tree, const std::vector<UniqueFd>& mounts,
                         const std::vector<UniqueFd>& sources,
                         const std::vector<UniqueFd>& namespaces, const WideMount& wide_mount,
                         Log& log);

}  // namespace stasis::engine::mounts
