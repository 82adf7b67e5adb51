// Cgroups written down: which ones every thread is in, and the directories
// below the container's own. The runtime keeps the container's limits itself.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/log.h"
#include "cgroup.pb.h"
#include "engine/image/image.h"
#include "engine/namespaces/cgroup_tree.h"
#include "engine/namespaces/ns_ids.h"
#include "engine/plan.h"

namespace stasis::engine::cgroup {

class Dumper {
 public:
  // Before the freeze: opens the hierarchies. Borrows plan and ids.
  Dumper(const DumpPlan& plan, const namespaces::NsIds& ids);

  // For InventoryEntry.root_cg_set and ThreadCoreEntry.cg_set.
  uint32_t engine_set() const { return 1; }
  uint32_t set_of(pid_t pid, pid_t tid);

  const Hierarchies& hierarchies() const { return hierarchies_; }

  // Writes cgroup.img, unless all are in the engine's own cgroups.
  void finish(image::ImageWriter& writer);

 private:
  Membership membership(pid_t pid, pid_t tid, const std::string& text) const;
  image::CgroupEntry describe() const;
  void describe(const Hierarchy& hierarchy, image::CgControllerEntry& controller) const;

  const DumpPlan& plan_;
  const namespaces::NsIds& ids_;
  Hierarchies hierarchies_;
  Membership root_;                          // of the root task, with prefixes
  std::vector<Membership> sets_;             // by id - 1
  std::map<std::string, uint32_t> by_text_;  // of /proc/PID/cgroup
};

}  // namespace stasis::engine::cgroup
