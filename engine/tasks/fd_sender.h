// Hands our open descriptors to tasks that are being made. All of them inherit
// one end of a socket pair at one number, above all that any of them will
// use; what is sent arrives at 0, 1, 2, ... in a task that has nothing else.
#pragma once

#include <vector>

#include "base/unique_fd.h"
#include "engine/remote/syscall_batch.h"

namespace stasis::engine {

class FdSender {
 public:
  // `number`: where the tasks have their end.
  explicit FdSender(int number);

  int number() const { return number_; }
  // In the root child: puts the task's end onto its number.
  void take_place() const;

  // Sends `fds`, and adds to `batch` what receives them.
  void send(const std::vector<int>& fds, SyscallBatch& batch);

 private:
  int number_;
  UniqueFd ours_, theirs_;
};

}  // namespace stasis::engine
