// A checkpoint of a running container, known by what a hook is told of it.
#pragma once

#include "hook/snapshot.h"

namespace stasis::cli {

// hook::TakeSnapshot.
void take_snapshot(const oci::State& state, const std::string& place,
                   const hook::SnapshotFile& file, Log& log);

}  // namespace stasis::cli
