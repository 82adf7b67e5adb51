// Processes that are made with a wanted id.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>

namespace stasis::engine {

// clone3 in the pid namespace for children of this thread. 0 in the child; -errno, -EEXIST
// where the id is taken.
long clone_as(pid_t pid, uint64_t flags, uint64_t exit_signal = 0);

// In the pid namespace behind the descriptor, a process that does `work`, which must not
// throw, and ends. Its id, or -errno of clone3. Pid 0: one that nobody else is likely to want.
long clone_into(int pid_namespace, pid_t pid, uint64_t flags, const std::function<void()>& work);

// Kills and reaps a child of ours, unless that has been done.
void end_child(pid_t child) noexcept;

}  // namespace stasis::engine
