// From a caller's options to what the engine carries out. Throws Error for
// what can't be done: nothing asked for is left out in silence.
#pragma once

#include "engine/plan.h"
#include "rpc.pb.h"

namespace stasis::rpc {

// What becomes of a name (of a mount, of a device) that stands for nothing. A
// person who typed it has mistyped it: an error. A program names what may be
// there: runc and crun every device and every masked path, present or not, and
// a configuration file serves all containers of a host: that only goes to the
// log.
enum class Keys { all_used, may_be_unused };

engine::DumpPlan dump_plan(const Options& opts, Log& log, Keys rule = Keys::may_be_unused);
engine::RestorePlan restore_plan(const Options& opts, Keys rule = Keys::may_be_unused);

}  // namespace stasis::rpc
