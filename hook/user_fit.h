// Whether a bundle's user namespace is the one that a checkpoint holds: a
// restore makes the image's, whatever config.json says.
#pragma once

#include <vector>

#include "engine/image/checkpoint.h"
#include "mountmap/mount_map.h"
#include "oci/config.h"

namespace stasis::hook {

std::vector<mountmap::MapFinding> compare_users(const image::Checkpoint& image,
                                                const oci::Config& config);

}  // namespace stasis::hook
