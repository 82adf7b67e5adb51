// A task stopped at the end of its execve, before the program's first
// instruction, becomes one that we can fill: it keeps nothing but the trampoline
// and the descriptor by which it receives others.
#pragma once

#include <string>

#include "engine/remote/tracee.h"
#include "engine/remote/trampoline.h"
#include "engine/tasks/fd_sender.h"

namespace stasis::engine {

// `has_sender`: the task has the sender's descriptor from its parent.
void gain_foothold(Tracee& task, Trampoline& trampoline, FdSender& sender, bool has_sender,
                   const std::string& who);

}  // namespace stasis::engine
