// Whether a bundle can take what a checkpoint holds, as far as mounts go: what
// the image wants is held against what a runtime gives by config.json.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "cli/image_dir.h"
#include "engine/image/checkpoint.h"
#include "mountmap/mount_map.h"
#include "oci/config.h"

namespace stasis::cli {

// An external mount of the image: a restore needs a source for its key.
struct Wanted {
  const image::MntEntry* entry = nullptr;
  std::string key;
};
std::vector<Wanted> wanted_sources(const image::Checkpoint& image);

// What runc names as source of a key. `mount` is null for what config.json
// doesn't list as a mount: devices, masks, cgroup v1 controllers, and what CRIU's
// configuration files name.
struct Given {
  std::string source;
  const oci::ConfigMount* mount = nullptr;
};
std::map<std::string, Given> given_sources(const oci::Config& config);

// Obstacles prevent a restore; warnings and notes are differences that come
// with it. `recorded` may be empty; so may `id`, the container's, which rules of
// the policy may need.
std::vector<mountmap::MapFinding> compare(const image::Checkpoint& image, const oci::Config& config,
                                          const std::vector<RecordedSource>& recorded,
                                          const std::string& id = {});

bool is_obstacle(const mountmap::MapFinding& finding);
std::string one_line(const mountmap::MapFinding& finding);

}  // namespace stasis::cli
