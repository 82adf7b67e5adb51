// Files of /proc of processes that have ended: they are opened again of ones
// that live no longer than that takes.
#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>

namespace stasis::engine::files {

// The process that a path belongs to, as the proc file system at `mountpoint`
// knows it; nothing where that isn't a process's, or is one of its threads'.
std::optional<pid_t> process_of(std::string path, const std::string& mountpoint);

// Does `action` while there is a process with this id in the pid namespace of
// `init`.
void with_process(pid_t init, pid_t id, const std::function<void()>& action);

}  // namespace stasis::engine::files
