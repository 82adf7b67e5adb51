// From a caller's options to what the engine carries out. Throws Error for
// what can't be done: nothing asked for is left out in silence.
#pragma once

#include "engine/plan.h"
#include "rpc.pb.h"

namespace stasis::rpc {

// Keys that stand for no mount are told to the log: runc names all its devices.
engine::DumpPlan dump_plan(const Options& opts, Log& log);
engine::RestorePlan restore_plan(const Options& opts);

// An element of `external`: "net[4026532281]:extRootNetNS", "mnt[/etc/hosts]:hosts".
struct External {
  std::string kind, id, value;
};
External parse_external(const std::string& text);

}  // namespace stasis::rpc
