#include "mountmap/cgroup_source.h"

#include <algorithm>

#include "base/text.h"

namespace stasis::mountmap {

namespace {

bool is_at_or_below(std::string_view path, std::string_view directory) {
  if (directory == "/") return true;
  return path.starts_with(directory) &&
         (path.size() == directory.size() || path[directory.size()] == '/');
}

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
    if (is_at_or_below(path, mount.mountpoint) &&
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
    if (!is_at_or_below(member.path, mount->root)) continue;
    std::string below = member.path.substr(mount->root == "/" ? 0 : mount->root.size());
    return below == "/" ? mount->mountpoint : mount->mountpoint + below;
  }
  return source;
}

}  // namespace stasis::mountmap
