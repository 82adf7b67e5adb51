// Containers that start from a snapshot of themselves: the first start is a
// normal one, and a process of ours takes a checkpoint when it is ready; later
// ones are restored in place.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "base/log.h"
#include "engine/image/checkpoint.h"
#include "oci/config.h"
#include "oci/state.h"

namespace stasis::hook {

// Names the checkpoint. See checkpoints.h.
constexpr const char* snapshot_annotation = "dev.stasis.snapshot";
constexpr const char* snapshot_when_annotation = "dev.stasis.snapshot-when";

// Takes a checkpoint of a running container, which goes on. Its text beside the
// images is made from them: it is published with them, or nothing is.
struct SnapshotFile {
  std::string name;
  std::function<std::string(const image::Checkpoint&)> text;
};
using TakeSnapshot = std::function<void(const oci::State& state, const std::string& place,
                                        const SnapshotFile& file, Log& log)>;

// createRuntime, for a container with the annotation. Throws Error where it is
// wrong, or the container is one that can't be restored in place.
void arm_snapshot(const oci::State& state, const oci::Config& config, const TakeSnapshot& take,
                  Log& log, std::string_view state_dir);

}  // namespace stasis::hook
