// The machine's policy file at the doors of CRIU: its rules decide over what a
// caller asks for.
#pragma once

#include <string>

#include "engine/plan.h"
#include "mountmap/policy.h"
#include "rpc.pb.h"

namespace stasis::rpc {

// `plan` is made from `opts`. Throws for what a rule refuses or can't do; and,
// of a container that runc knows, where a source that a restore would need is
// gone.
void apply_policy(const Options& opts, engine::DumpPlan& plan, Log& log);

// The source that a restore binds for an external mount, as the policy has it;
// the given one where no rule says otherwise. Throws for what a rule refuses.
std::string decided_source(const mountmap::Policy& policy, const mountmap::PolicySubject& subject,
                           const mountmap::MountTable& host, const engine::ExternalMount& mount);

// The container's id and config.json are those of runc, where that is who asks.
void apply_policy(engine::RestorePlan& plan, Log& log);

}  // namespace stasis::rpc
