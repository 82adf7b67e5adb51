// `stasis swrk FD`: serves a caller of CRIU on an inherited socket.
#pragma once

#include <functional>
#include <string>

#include "engine/plan.h"

namespace stasis::rpc {

// What the server needs of the engine and the machine; a test puts its own in.
struct EngineCalls {
  std::function<decltype(engine::dump)> dump;
  std::function<decltype(engine::restore)> restore;
  std::function<decltype(engine::obstacles)> obstacles;
  std::function<std::string()> missing;  // what this machine lacks; empty when nothing
  std::string default_config = "/etc/criu/default.conf";
};

// Serves requests until the caller has what it wanted. The result is the exit
// code: 0 after success, also when a VERSION or FEATURE_CHECK was all.
int serve(int fd, const EngineCalls& calls);

}  // namespace stasis::rpc
