// The root file system that config.json gives a container held against the one that its
// checkpoint was made on, as far as that shows before mounts stand.
#pragma once

#include "engine/image/checkpoint.h"
#include "oci/config.h"

namespace stasis::hook {

// The programs and files that its processes have open or mapped, those on the root file
// system itself: there, of the same type, mode and size. Throws Error naming the first
// that isn't. Those on mounts, and whatever changes until then, the start looks at.
void check_root_files(const image::Checkpoint& checkpoint, const oci::Config& config);

}  // namespace stasis::hook
