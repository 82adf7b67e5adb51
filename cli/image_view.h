// A checkpoint as a document: what `stasis inspect --json` prints, and what its
// tables are made from.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "engine/image/checkpoint.h"

namespace stasis::cli {

// The mounts of one mount namespace, in mountinfo's order (an image has the
// last one first).
std::vector<const image::MntEntry*> in_order(const std::vector<image::MntEntry>& mounts);

// "made_by", "namespaces", "mount_namespaces", "tasks", "memory", "files". Also
// of an image that load() refuses: with what can be read of it.
nlohmann::ordered_json view(const image::Checkpoint& image);

}  // namespace stasis::cli
