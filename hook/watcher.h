// The process that stays behind when a hook returns, and ends with the
// container's start.
#pragma once

#include <functional>

#include "base/unique_fd.h"
#include "oci/state.h"

namespace stasis::hook {

// Forks. In the new process, which shares nothing with the hook's caller (not its
// session, standard streams, descriptors or working directory), `work` runs;
// it calls `ready` when the hook may go on. A throw before that is thrown here
// again; a throw after it ends the process.
void leave_behind(const std::function<void(const std::function<void()>& ready)>& work);

}  // namespace stasis::hook
