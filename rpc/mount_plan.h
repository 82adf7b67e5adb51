// The part of the plans that is about mounts: CRIU's options for them.
#pragma once

#include "rpc/plans.h"

namespace stasis::rpc {

// Throws Error for what stands in the way; looks at the host, so before a freeze.
void plan_mounts(const Options& opts, Keys rule, Log& log, engine::DumpPlan& plan);
void plan_mounts(const Options& opts, Keys rule, engine::RestorePlan& plan);

}  // namespace stasis::rpc
