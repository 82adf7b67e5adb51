// The mount namespaces of a container: the root task's, which the plan knows,
// and those that processes of it have made for themselves.
#pragma once

#include <sys/types.h>

#include <vector>

#include "base/unique_fd.h"
#include "engine/plan.h"

namespace stasis::engine::mounts {

struct Space {
  pid_t pid;  // sees the namespace from its root
  const mountmap::MountTable* table;
};

// The root task's comes first.
std::vector<Space> spaces_of(const DumpPlan& plan);

// A mount by its id, which is unique among all namespaces.
struct Place {
  Space space{};
  const mountmap::Mount* mount = nullptr;  // null: no mount of the container
};
Place find_mount(const DumpPlan& plan, int id);

// Those of `pids` that are neither in the root task's namespace nor in one of
// the nested ones before. Processes that have ended are passed over. Throws
// Error where the whole of a namespace can't be seen.
std::vector<NestedMounts> find_nested(const DumpPlan& plan, const std::vector<pid_t>& pids);

// Throws Error where the root task's mounts are no longer those that the plan
// was made for: what it says of them (whose they are, where their sources are)
// might be wrong. Sees mounts, what became of their flags, and renamed sources.
void check_unchanged(const DumpPlan& plan);

// O_PATH descriptor of the root of the namespace.
UniqueFd open_root(const Space& space);

}  // namespace stasis::engine::mounts
