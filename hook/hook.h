// The phases of an OCI hook. A runtime calls `stasis hook PHASE` with the
// container's state on stdin; createRuntime keeps a record of every mount that
// belongs to the host, poststop removes it.
#pragma once

#include <string_view>

#include "base/log.h"
#include "hook/snapshot.h"

namespace stasis::hook {

// Carries out `phase` with the state JSON read from `stdin_fd`. Doing it again
// does no harm. Throws Error for an unknown phase, a missing state or an
// unreadable config.json. `take`: for containers that are to be checkpointed when
// they are ready. `state_dir` is /run/stasis outside of tests.
void run(std::string_view phase, int stdin_fd, Log& log, const TakeSnapshot& take,
         std::string_view state_dir = "/run/stasis");

}  // namespace stasis::hook
