// Containers that start from a checkpoint: the runtime makes them as always, and
// a process of ours puts the dumped tasks into them when they start.
#pragma once

#include <string_view>

#include "base/log.h"
#include "oci/config.h"
#include "oci/state.h"

namespace stasis::hook {

// Names the checkpoint. See checkpoints.h.
constexpr const char* restore_annotation = "dev.stasis.restore";

// A signal that the first process of a container started from a checkpoint finds,
// before it does anything else: so that clones can begin to differ.
constexpr const char* clone_signal_annotation = "dev.stasis.clone-signal";
// "SIGUSR2", "USR2" or "12"; 0 where there is no such annotation. Throws Error.
int clone_signal(const oci::Config& config);

// createRuntime, for a container with that annotation. Returns when the
// container's init is ours. Throws Error where the checkpoint doesn't fit.
void arm(const oci::State& state, const oci::Config& config, Log& log, std::string_view state_dir);

// Throws Error for a container that can't be restored in place at all.
void check_namespaces(const oci::Config& config);

// poststart of such a container, where the runtime calls it when the program runs
// (crun): waits for the outcome. Throws Error where the restore has failed.
void await(const oci::State& state, std::string_view state_dir);

}  // namespace stasis::hook
