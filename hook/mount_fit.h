// A checkpoint's mounts held against those that config.json gives the container:
// in place the runtime makes them, so differences are told, and no obstacle.
#pragma once

#include <string>
#include <vector>

#include "engine/image/checkpoint.h"
#include "oci/config.h"

namespace stasis::hook {

// One line for each mount that is another now: gone or new, of another kind or source,
// read-only or no longer.
std::vector<std::string> mount_differences(const image::Checkpoint& checkpoint,
                                           const oci::Config& config);

// What a plugin made nobody makes here: it has to be config.json's. Throws Error.
void check_provided(const image::Checkpoint& checkpoint, const oci::Config& config);

}  // namespace stasis::hook
