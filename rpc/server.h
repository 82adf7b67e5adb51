// `stasis swrk FD`: serves a caller of CRIU on an inherited socket.
#pragma once

#include "rpc/operation.h"

namespace stasis::rpc {

// Serves requests until the caller has what it wanted. The result is the exit
// code: 0 after success, also when a VERSION or FEATURE_CHECK was all.
int serve(int fd, const EngineCalls& calls);

}  // namespace stasis::rpc
