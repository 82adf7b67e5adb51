// IPC namespace: its sysctls.
#pragma once

#include <string>
#include <vector>

#include "ns.pb.h"

namespace stasis::engine::ipc {

// All of the calling thread's namespace.
image::IpcVarEntry read();
// Writes what differs from the namespace's own values.
void restore(const image::IpcVarEntry& vars);

}  // namespace stasis::engine::ipc
