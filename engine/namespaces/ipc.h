// IPC namespace: its sysctls. SysV objects and POSIX queues are refused by name.
#pragma once

#include <string>
#include <vector>

#include "ns.pb.h"

namespace stasis::engine::ipc {

// All of the calling thread's namespace.
image::IpcVarEntry read();
// "2 SysV shared memory segments"; empty: none. objects() names POSIX message
// queues, too, by a mount that takes 0.5 to 4 ms to go away: not while tasks wait.
std::vector<std::string> sysv_objects();
std::vector<std::string> objects();
// Writes what differs from the namespace's own values.
void restore(const image::IpcVarEntry& vars);

}  // namespace stasis::engine::ipc
