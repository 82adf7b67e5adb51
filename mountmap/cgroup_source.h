// Where a cgroup v1 controller of a container comes from on this host.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kernel/proc_misc.h"
#include "mountmap/mount_table.h"

namespace stasis::mountmap {

// runc names as source of such a mount the directory of the cgroup that runc
// itself is in (it joins the controller's mountpoint with its own place), and
// a container restored from that would see and, where it may write, change its
// host's cgroups. Returns the directory of the cgroup in `place` instead: the
// container's, which runc puts its restorer into. `source` itself when it lies
// on no cgroup v1 mount of `host`.
std::string cgroup_source(const MountTable& host,
                          const std::vector<kernel::CgroupMembership>& place,
                          const std::string& source);

}  // namespace stasis::mountmap
