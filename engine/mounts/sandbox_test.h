// For tests: processes in mount namespaces of their own, and what is compared
// of them.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/image/checkpoint.h"
#include "engine/mounts/mounts.h"
#include "engine/scratch_test.h"
#include "mountmap/mount_table.h"

namespace stasis::engine::mounts::test {

// A process that has run `setup` in new namespaces (`more`: CLONE_NEW* beside
// mount, pid, ipc and network) and stays.
class Sandbox {
 public:
  explicit Sandbox(const std::function<void()>& setup, int more = 0);
  Sandbox(const Sandbox&) = delete;
  Sandbox& operator=(const Sandbox&) = delete;
  ~Sandbox();

  pid_t pid() const { return pid_; }
  const std::string& outcome() const { return outcome_; }  // "ok" or what was thrown
  std::string path(const std::string& inside) const {
    return "/proc/" + std::to_string(pid_) + "/root" + inside;
  }
  mountmap::MountTable table() const { return mountmap::MountTable::read(pid_); }

 private:
  pid_t pid_;
  int stay_;
  std::string outcome_;
};

// Every mount in words, without ids and device numbers: what must be equal
// before and after.
std::vector<std::string> picture(const mountmap::MountTable& table);

// Writes the plan's mounts into `dir` and reads them as a checkpoint.
image::Checkpoint dump_to(const std::string& dir, const DumpPlan& plan);

// The plan of a sandbox whose mounts at the places in `keys` are external.
DumpPlan plan_of(const Sandbox& sandbox, const std::map<std::string, std::string>& keys);

// Builds it up in another sandbox.
std::unique_ptr<Sandbox> rebuild(const image::Checkpoint& checkpoint, const RestorePlan& plan,
                                 int more = 0);

}  // namespace stasis::engine::mounts::test
