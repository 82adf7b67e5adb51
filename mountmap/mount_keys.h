// For doors that are told by options what to do with mounts (CRIU's forms)
// instead of by a configuration.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "mountmap/identity.h"
#include "mountmap/mount_map.h"

namespace stasis::mountmap {

// A mount by its place inside the container; a path that holds `glue` itself
// may have been cut in the wrong place, then more of it is in the value.
struct MountKey {
  std::string path, value;
  std::string glue;  // what stood between: ":" or "]:", or empty
};

struct DeviceKey {
  unsigned major = 0, minor = 0;
  std::string name;
};

struct KeyRequest {
  std::vector<MountKey> keys = {};
  std::vector<DeviceKey> devices = {};
  std::vector<std::string> skip = {};  // mountpoints, with all that stands on them
  // Find the host's mounts by what they are; those that exchange mounts with
  // the host (sharing) or receive some from it (masters) only if allowed.
  bool automatic = false, sharing = false, masters = false;
};

struct KeyInput {
  const MountTable& container;
  const MountTable& host;  // of the process that runs the engine
  const KeyRequest& request;
  // A path with the container's symbolic links resolved; may be empty.
  std::function<std::string(const std::string&)> resolve = {};
  // The host's path that config.json binds there, empty where it isn't known.
  std::function<std::string(const std::string&)> configured = {};
  std::function<std::optional<FileIdentity>(const std::string&)> look = identify;
};

struct UnusedKey {
  std::string key;
  std::string why;  // "no mount stands there: did you mean /vol?"
};

struct KeyedMounts {
  std::map<int, std::string> external;  // mount id -> value
  std::map<int, HostSource> sources;    // of external mounts, as far as they are known
  std::set<int> automatic;              // found by what they are; `sources` has them all
  std::map<int, std::string> devices;   // mount id -> name
  std::set<int> skipped;
  std::vector<UnusedKey> unused;
  std::vector<MapFinding> findings;
};

// Looks at sources on the host, so before a freeze only.
//
// A key means one mount. Where several stand on the same place it is the
// lowest one that can be the host's; the same key again means the next.
KeyedMounts apply_keys(const KeyInput& input);

}  // namespace stasis::mountmap
