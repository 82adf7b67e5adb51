// A socket in repair mode answers nobody. Should we be killed while one of a
// living container is in it, a process that we leave behind lets it out.
#pragma once

#include <sys/types.h>

#include <vector>

#include "base/unique_fd.h"

namespace stasis::engine::files {

class RepairGuard {
 public:
  // `sockets` are ours, and stay open as long as the guard is there.
  explicit RepairGuard(const std::vector<int>& sockets);
  ~RepairGuard();  // the guard goes, and does nothing
  RepairGuard(const RepairGuard&) = delete;
  RepairGuard& operator=(const RepairGuard&) = delete;

 private:
  UniqueFd leash_;  // at its other end the guard waits
  pid_t guard_ = -1;
};

}  // namespace stasis::engine::files
