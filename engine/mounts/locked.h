// Mounts that stay where they are: what came into a container with a user namespace
// as one, by a recursive bind or the host's own mounts, its root can't take apart, so
// as not to see what lies beneath. The kernel shows it nowhere and locks by itself, in
// copies of trees that come from another user namespace: so they come back as trees.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/image/checkpoint.h"
#include "engine/mounts/hidden.h"
#include "engine/mounts/tree.h"
#include "engine/plan.h"

namespace stasis::engine::mounts {

// Ids, in the root task's namespace.
std::vector<uint32_t> find_locked(const DumpPlan& plan);

struct Locked {
  int node = -1, parent = -1;
  std::string path;  // where it stands on the parent
};

// Those of the checkpoint's that can be locked again, parents first; `sources` tells
// which mounts are the host's. The others are told.
std::vector<Locked> to_be_locked(const image::Checkpoint& checkpoint, const Tree& tree,
                                 const std::vector<UniqueFd>& sources,
                                 const std::vector<HiddenFile>& hidden, Log& log);

}  // namespace stasis::engine::mounts
