// Holds a container's start: its init, as the runtime made it, is followed up to
// the execve of the user's program, and the runtime's start waits meanwhile.
#pragma once

#include <functional>
#include <vector>

#include "base/unique_fd.h"
#include "engine/remote/tracee.h"

namespace stasis::engine {

class StartHold {
 public:
  // From here on our death is the container's. Of a runtime's threads only the first one is
  // followed: runc, which has several, locks it to its init, and that one execs.
  explicit StartHold(pid_t init);
  // Not committed: the container is killed, and its start fails.
  ~StartHold();
  StartHold(const StartHold&) = delete;
  StartHold& operator=(const StartHold&) = delete;

  pid_t init() const { return init_; }

  // Until the init has a new program and stands before its first instruction.
  // False: it has ended. `inside` is called when it has entered its root and still
  // has all privileges, `before` when it is about to start; maybe repeatedly.
  bool wait_for_program(const std::function<void()>& inside, const std::function<void()>& before);

  // In `inside` only: one of the init's. The result as the kernel gives it.
  long system_call(long nr, std::vector<uint64_t> args);

  Tracee& tracee() { return tracee_; }

  // Lets the runtime know that the container runs. Under a runtime that doesn't
  // wait (crun) there is nobody to tell.
  void commit();
  bool committed() const { return committed_; }

 private:
  void on_entry(const std::function<void()>& before);
  void on_exit(const std::function<void()>& inside);

  pid_t init_;
  Tracee tracee_;
  UniqueFd pidfd_, fifo_;  // fifo_: the runtime reads until we close it
  bool swallow_ = false, committed_ = false;
};

}  // namespace stasis::engine
