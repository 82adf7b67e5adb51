// What providers of mounts have to say about a container that is to be dumped.
#pragma once

#include <memory>

#include "base/log.h"
#include "engine/plan.h"
#include "plugins/providers.h"
#include "rpc/settings.h"

namespace stasis::rpc {

// The built-in providers and the plugins of the directory that --libdir, the
// machine's policy or nobody names.
std::shared_ptr<const plugins::Providers> providers(const Settings& settings);

// For a restore.
void provide_mounts(const Settings& settings, engine::RestorePlan& plan);

// Lets the providers describe the root and those mounts that nothing else in
// the plan accounts for. Their descriptions go to the log, a line each.
void describe_mounts(const plugins::Providers& providers, engine::DumpPlan& plan, Log& log);

// What --root, --aufs, --aufs-root and --aufs-ref say at a dump. After
// describe_mounts().
void apply_root_options(const Settings& settings, engine::DumpPlan& plan, Log& log);

}  // namespace stasis::rpc
