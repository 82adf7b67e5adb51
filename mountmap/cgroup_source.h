// Where the mount of a cgroup v1 controller comes from in a restore.
#pragma once

#include <map>
#include <string>

#include "mountmap/mount_table.h"

namespace stasis::mountmap {

// runc computes the source of a container's controller mounts from its own
// cgroup. At create that is right, since the container's init computes it; at
// a restore runc itself does, and the container would get to see the cgroups
// of its host. So of a `source` in a cgroup v1 hierarchy, the directory that
// the container's own cgroup (controller -> path, as in /proc/PID/cgroup) has
// there; any other source as it is.
std::string cgroup_source(const MountTable& host, const std::string& source,
                          const std::map<std::string, std::string>& cgroups);

}  // namespace stasis::mountmap
