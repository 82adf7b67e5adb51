// IPC namespace: its sysctls. SysV objects and POSIX queues are refused by name.
#pragma once

#include <string>
#include <vector>

#include "ns.pb.h"

namespace stasis::engine::ipc {

// All of the calling thread's namespace.
image::IpcVarEntry read();
// "2 SysV shared memory segments", "POSIX message queue /q"; empty: none.
std::vector<std::string> objects();
// Writes what differs from the namespace's own values.
void restore(const image::IpcVarEntry& vars);

}  // namespace stasis::engine::ipc
