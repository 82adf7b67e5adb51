// IPC namespace: its sysctls. POSIX queues are refused by name.
#pragma once

#include <string>
#include <vector>

#include "ns.pb.h"

namespace stasis::engine::ipc {

// All of the calling thread's namespace.
image::IpcVarEntry read();
// "POSIX message queue /NAME" each, by a mount that takes 0.5 to 4 ms to go
// away: not while tasks wait.
std::vector<std::string> queues();
// Writes what differs from the namespace's own values.
void restore(const image::IpcVarEntry& vars);

}  // namespace stasis::engine::ipc
