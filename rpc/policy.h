// The machine's policy file at the doors of CRIU: its rules decide over what a
// caller asks for.
#pragma once

#include <string>

#include "engine/plan.h"
#include "rpc.pb.h"

namespace stasis::rpc {

// `plan` is made from `opts`. Throws for what a rule refuses or can't do; and,
// of a container that runc knows, where a source that a restore would need is
// gone.
void apply_policy(const Options& opts, engine::DumpPlan& plan, Log& log);

// The container's id and config.json are those of runc, where that is who asks.
void apply_policy(engine::RestorePlan& plan, Log& log);

}  // namespace stasis::rpc
