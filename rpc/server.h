// `stasis swrk FD`: serves a caller of CRIU on an inherited socket.
#pragma once

#include "engine/plan.h"

namespace stasis::rpc {

// What the server needs of the engine; a test puts its own in.
struct EngineCalls {
  decltype(&engine::dump) dump = nullptr;
  decltype(&engine::restore) restore = nullptr;
  decltype(&engine::obstacles) obstacles = nullptr;
};

// Serves requests until the caller has what it wanted. The result is the exit
// code: 0 after success, also when a VERSION or FEATURE_CHECK was all.
int serve(int fd, const EngineCalls& calls);

// The same with the real engine.
int serve(int fd);

}  // namespace stasis::rpc
