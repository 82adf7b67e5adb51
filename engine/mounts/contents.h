// The content of the image's tmpfs mounts for a container whose mounts others
// have made.
#pragma once

#include "base/log.h"

namespace stasis::image {
struct Checkpoint;
}

namespace stasis::engine::mounts {

// Unpacks into every tmpfs beneath the container's root that stands where the
// image has one, and that is empty. Others are left as they are. `init`: whose root that is.
void fill_empty(const image::Checkpoint& checkpoint, int root, pid_t init, Log& log);

}  // namespace stasis::engine::mounts
