// How much memory, and how many processes, the cgroups of a container leave
// room for: a copy of a task costs what the task writes to while it exists, and
// beyond a limit the kernel kills.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "engine/namespaces/cgroup_tree.h"

namespace stasis::engine {

class Headroom {
 public:
  explicit Headroom(const cgroup::Hierarchies& hierarchies) : hierarchies_(hierarchies) {}

  // Room for one more process in the cgroups of `membership` (the text of
  // /proc/PID/cgroup) that may come to hold `bytes`: taken, if it is there in all
  // of them and in the machine. Else nothing is, and the result says where not.
  std::string take(std::string_view membership, uint64_t bytes);

 private:
  struct Left {
    uint64_t bytes, processes;
  };
  Left& left_in(const cgroup::Hierarchy& hierarchy, const std::string& path);

  const cgroup::Hierarchies& hierarchies_;
  std::map<std::string, Left> left_;
};

// Of one cgroup directory: `limit`, `used` and `stat` are the texts of its files,
// empty where it has none. UINT64_MAX: no limit.
uint64_t memory_left(std::string_view limit, std::string_view used, std::string_view stat);

}  // namespace stasis::engine
