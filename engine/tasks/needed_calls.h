// Kernels are built without some calls (CONFIG_SYSVIPC, CONFIG_RSEQ, ...): what a
// checkpoint holds that this kernel has no call for is to be told before anything is made.
#pragma once

#include <string>

namespace stasis::image {
struct Checkpoint;
}

namespace stasis::engine::needed_calls {

// In one line for people, as "shmget (System V shared memory)"; empty: nothing is missing.
std::string missing(const image::Checkpoint& checkpoint);

// Throws Error where something is.
void check(const image::Checkpoint& checkpoint);

}  // namespace stasis::engine::needed_calls
