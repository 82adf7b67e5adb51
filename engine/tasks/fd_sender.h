// Hands our open descriptors to tasks that are being made. All of them inherit
// one end of a socket pair at one number, above all that any of them will
// use; what is sent arrives at 0, 1, 2, ... in a task that has nothing else.
#pragma once

#include <span>
#include <vector>

#include "base/unique_fd.h"
#include "engine/remote/syscall_batch.h"

namespace stasis::engine {

// One message with all of them (250 at most), to whoever holds the other end.
void send_descriptors(int socket, std::span<const int> fds);

class FdSender {
 public:
  // The tasks inherit their end at number(), which is `at_least` or above.
  explicit FdSender(int at_least);

  int number() const { return theirs_.get(); }
  int ours() const { return ours_.get(); }      // our own end, borrowed
  int theirs() const { return theirs_.get(); }  // what the tasks have, borrowed

  // Sends `fds`, and adds to `batch` what receives them.
  void send(const std::vector<int>& fds, SyscallBatch& batch);

 private:
  UniqueFd ours_, theirs_;
};

}  // namespace stasis::engine
