// Lets the next task of a pid namespace have a wanted id, for tasks that may not
// choose it themselves (clone3 with set_tid wants CAP_CHECKPOINT_RESTORE): a helper
// in the namespace sets the counter that the kernel goes on from.
#pragma once

#include <sys/types.h>

#include "base/unique_fd.h"

namespace stasis::engine {

class PidChooser {
 public:
  // `init`: of the namespace, in ours. To be made before we have other threads.
  explicit PidChooser(pid_t init);
  ~PidChooser();  // the helper is gone afterwards
  PidChooser(const PidChooser&) = delete;
  PidChooser& operator=(const PidChooser&) = delete;

  // Whoever is made next in the namespace gets this id, if it is free.
  void next(pid_t id);

 private:
  [[noreturn]] static void serve(int channel, int counter);

  UniqueFd channel_;
  pid_t helper_ = 0;
};

}  // namespace stasis::engine
