// Processes for one action that have a wanted id: the kernel remembers with some
// objects who made them, and shows it as that id for as long as they last.
#pragma once

#include <sys/types.h>

#include <functional>

namespace stasis::engine {

// Runs `action` in a process for this alone, with id `pid` in the pid namespace
// behind the descriptor and all our descriptors; what it opens is ours. Returns
// what the action returned, or -errno where there could be no such process:
// -EEXIST if the id is taken. Pid 0: one that nobody else is likely to want.
long as_process(int pid_namespace, pid_t pid, const std::function<long()>& action);

}  // namespace stasis::engine
