// One stasis at a time on one container: a lock file in /run/stasis/.locks. Not
// in /run/stasis/ID, which the poststop hook takes away while we hold the lock.
#pragma once

#include <string>

#include "base/unique_fd.h"

namespace stasis::cli {

constexpr const char* run_dir = "/run/stasis";

class ContainerLock {
 public:
  // Throws Error when somebody else holds it.
  explicit ContainerLock(const std::string& id, const std::string& state_dir = run_dir);
  ~ContainerLock();
  ContainerLock(const ContainerLock&) = delete;
  ContainerLock& operator=(const ContainerLock&) = delete;

 private:
  std::string path_;
  UniqueFd fd_;
};

}  // namespace stasis::cli
