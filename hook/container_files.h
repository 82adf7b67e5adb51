// What an engine that exports a container puts beside its checkpoint: the files that it had
// changed in its own root file system, and those in its /dev/shm.
#pragma once

#include <string>

#include "base/log.h"
#include "oci/config.h"

namespace stasis::hook {

bool is_of_container_files(const std::string& name);

// `directory` holds them, or none. They go into the root directory and the source of /dev/shm that
// config.json gives the new container, before it runs. Throws Error where that fails; what doesn't
// fit in there is told.
void apply_container_files(int directory, const oci::Config& config, Log& log);

}  // namespace stasis::hook
