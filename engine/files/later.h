// Files that are made of processes and their namespaces, which are not there
// yet when the others are made: pidfds and files of /proc/PID/ns.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "base/unique_fd.h"

namespace stasis::engine::files {

using Pids = std::map<pid_t, pid_t>;  // in the container -> in our namespace

class Later {
 public:
  using Open = std::function<UniqueFd(const Pids&)>;

  // The file; or, as long as there are no processes, a place for it that
  // set_pids() puts it into.
  UniqueFd open(Open open);
  void set_pids(Pids pids);

 private:
  std::optional<Pids> pids_;
  std::vector<std::pair<int, Open>> pending_;  // descriptors of the caller's
};

}  // namespace stasis::engine::files
