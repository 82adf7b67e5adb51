// Cgroups brought back: directories that are missing are made, and every task
// enters its own. Limits of the container's own cgroup are the runtime's.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/log.h"
#include "engine/image/checkpoint.h"
#include "engine/namespaces/cgroup_tree.h"
#include "engine/plan.h"

namespace stasis::engine::cgroup {

class Restorer {
 public:
  // Coordinator, before any task: finds every directory and makes missing
  // ones; they are removed again by the destructor, unless commit() was called.
  Restorer(const image::Checkpoint& checkpoint, const RestorePlan& plan, Log& log);
  Restorer(const Restorer&) = delete;
  Restorer& operator=(const Restorer&) = delete;
  ~Restorer();

  // Moves our own process out of the container's cgroups, where the caller has
  // put it: the engine's memory and threads must not count there. A first write
  // to cgroup.procs after some quiet ms waits 7 ms for the kernel, the next ones
  // take 10 us; so do it soon after the caller's, best when the root task is
  // cloned: that one inherits what we leave.
  void leave();

  // Moves the root task (0: the caller) to where its cgroup namespace begins or,
  // without one, to its set, as far as not inherited at its clone.
  void place_root(pid_t pid) const;
  // In the root task, then: makes the cgroup namespace where the container has one.
  void make_namespace() const;
  // Coordinator: moves a whole process, or a thread whose set differs from its
  // leader's. Set 0 and the dumper's own set mean: stay.
  void enter(uint32_t set, pid_t pid) const;
  void enter_thread(uint32_t set, pid_t tid) const;

  // All tasks are in: v2 controllers and limits of the directories made.
  void commit();

 private:
  struct Place {
    const Hierarchy* hierarchy = nullptr;
    std::string path;   // from the hierarchy's root
    std::string outer;  // root of the cgroup namespace; empty without one
  };
  struct Property {
    const Hierarchy* hierarchy;
    std::string path, name, value;
  };

  std::vector<const Hierarchy*> matching(const std::vector<std::string>& names) const;
  std::vector<const Hierarchy*> matching(const image::CgControllerEntry& controller) const;
  std::string new_root(const Hierarchy& hierarchy) const;
  std::string head_of(const std::string& controller, const std::string& path) const;
  std::string path_here(const Hierarchy& hierarchy, const std::string& controller,
                        const std::string& path) const;
  std::vector<Place> places_of(const image::CgSetEntry& set) const;
  void make_tree(const Hierarchy& hierarchy, const std::string& path,
                 const image::CgroupDirEntry& directory, int depth);
  void remove_made() noexcept;
  bool make(const Hierarchy& hierarchy, const std::string& path);
  void fill_cpuset(const Hierarchy& hierarchy, const std::string& path) const;
  void apply(const Property& property) const;
  const std::vector<Place>* places(uint32_t set) const;
  uint32_t root_set() const;
  bool own_namespace() const;

  const image::Checkpoint& checkpoint_;
  const image::CgroupEntry& image_;  // empty when cgroups are none of our business
  const RestorePlan& plan_;
  Log& log_;
  Hierarchies hierarchies_;
  Membership engine_, parent_;
  std::map<uint32_t, std::vector<Place>> sets_;
  std::vector<Property> deferred_;
  std::vector<std::pair<const Hierarchy*, std::string>> made_;
  bool committed_ = false;
};

}  // namespace stasis::engine::cgroup
