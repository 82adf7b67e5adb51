// The kernel's own list of sockets.
#pragma once

#include <sys/types.h>

#include "kernel/netlink.h"

namespace stasis::engine::files {

// sock_diag in the network namespace of process `pid`; 0: in ours.
kernel::Netlink sock_diag(pid_t pid);

}  // namespace stasis::engine::files
