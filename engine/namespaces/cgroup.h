// Cgroups: which ones every thread is in, and the tree of directories below
// the container's own. The runtime sets the container's limits itself.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/unique_fd.h"
#include "engine/image/checkpoint.h"
#include "engine/namespaces/cgroup_tree.h"
#include "engine/namespaces/ns_ids.h"
#include "engine/plan.h"

namespace stasis::engine::cgroup {

class Dumper {
 public:
  // Before the freeze: opens the hierarchies. Borrows all arguments.
  Dumper(const DumpPlan& plan, const namespaces::NsIds& ids, int root_pidfd, Log& log);

  // For InventoryEntry.root_cg_set and ThreadCoreEntry.cg_set. The root
  // task's leader is asked for first.
  uint32_t engine_set() const { return 1; }
  uint32_t set_of(pid_t pid, pid_t tid);

  void finish(image::ImageWriter& writer);  // cgroup.img, when there is something to say

 private:
  image::CgroupEntry describe();

  const DumpPlan& plan_;
  const namespaces::NsIds& ids_;
  int root_pidfd_;
  Log& log_;
  Hierarchies hierarchies_;
  std::vector<Membership> sets_;  // id - 1
};

class Restorer {
 public:
  // Coordinator, before any task: finds every directory, makes missing ones.
  Restorer(const image::Checkpoint& checkpoint, const RestorePlan& plan, Log& log);

  // Moves our own process out of the container's cgroups (the caller has put
  // it there), so that the engine's memory and threads don't count.
  void leave();

  // In the root child, before it holds memory: enters the root task's set and,
  // where the container has one, its cgroup namespace at the dumped place.
  void enter_root();
  // Coordinator: moves a process; a thread where its set differs. Set 0 and
  // sets that are the parent's need no call but do no harm.
  void enter(uint32_t set, pid_t pid);
  void enter_thread(uint32_t set, pid_t tid);

 private:
  struct Place {
    std::string hierarchy;  // its name in /proc/PID/cgroup
    std::string path;       // from the hierarchy's root
    size_t prefix = 0;      // length of the cgroup namespace's root in it
  };
  std::string new_root(const Hierarchy& hierarchy) const;
  Place place(const image::CgMemberEntry& member, const Hierarchy& hierarchy) const;
  void make(const Hierarchy& hierarchy, const std::string& path, const std::string& image_path);
  void move(const Place& place, const std::string& path, const char* file, pid_t id);
  const std::vector<Place>* places(uint32_t set) const;

  const image::Checkpoint& checkpoint_;
  const RestorePlan& plan_;
  Log& log_;
  Hierarchies hierarchies_;
  Membership engine_, parent_;
  std::map<uint32_t, std::vector<Place>> sets_;
};

}  // namespace stasis::engine::cgroup
