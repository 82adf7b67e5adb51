// What confines a thread, and can only come last: credentials, seccomp, LSM label.
#pragma once

#include <set>
#include <string>

#include "engine/image/checkpoint.h"
#include "engine/remote/syscall_batch.h"
#include "engine/tasks/live_tree.h"

namespace stasis::engine {

// A container whose first process the runtime has made: what its tasks have from
// that one stays as it is, or is lowered.
struct Inherited {
  std::set<int> seccomp_filters;  // by number in the image
};

class Confinement {
 public:
  // `lsm_profile`: the caller's word on it. `inherited` may be null.
  Confinement(const image::Checkpoint& checkpoint, const std::string& lsm_profile,
              const Inherited* inherited);

  // Of a task's threads the leader comes first.
  void add(const LiveTask& task, const LiveThread& thread, SyscallBatch& batch) const;

 private:
  void lower(const LiveTask& task, const LiveThread& thread, SyscallBatch& batch) const;
  void add_filters(const LiveTask& task, const LiveThread& thread, SyscallBatch& batch) const;

  const image::Checkpoint& checkpoint_;
  const std::string& lsm_profile_;
  const Inherited* inherited_;
  unsigned last_cap_;
};

}  // namespace stasis::engine
