#include "mountmap/cgroup_source.h"

#include <algorithm>

#include "base/text.h"
#include "mountmap/paths.h"

namespace stasis::mountmap {

namespace {

// "rw,cpu,cpuacct" holds all of "cpu,cpuacct".
bool holds_all(std::string_view options, std::string_view names) {
  auto have = text::split(options, ',');
  for (std::string_view name : text::split(names, ','))
    if (std::find(have.begin(), have.end(), name) == have.end()) return false;
  return true;
}

// The last mount is the one that is seen.
const Mount* mount_of(const MountTable& host, const std::string& path) {
  const Mount* best = nullptr;
  for (const Mount& mount : host.mounts())
    if (inside(path, mount.mountpoint) &&
        (!best || mount.mountpoint.size() >= best->mountpoint.size()))
      best = &mount;
  return best;
}

}  // namespace

std::string cgroup_source(const MountTable& host,
                          const std::vector<kernel::CgroupMembership>& place,
                          const std::string& source) {
  const Mount* mount = mount_of(host, source);
  if (!mount || mount->fstype != "cgroup") return source;
  for (const kernel::CgroupMembership& member : place) {
    if (member.hierarchy == 0 || !holds_all(mount->sb_options, member.controllers)) continue;
    if (!inside(member.path, mount->root)) continue;
    return rebase(member.path, mount->root, mount->mountpoint);
  }
  return source;
}

}  // namespace stasis::mountmap
