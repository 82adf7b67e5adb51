#include "mountmap/cgroup_source.h"

#include "base/text.h"
#include "mountmap/paths.h"

namespace stasis::mountmap {

std::string cgroup_source(const MountTable& host, const std::string& source,
                          const std::map<std::string, std::string>& cgroups) {
  const Mount* hierarchy = host.at(source);
  if (hierarchy->fstype != "cgroup") return source;
  for (auto controller : text::split(hierarchy->sb_options, ',')) {
    auto own = cgroups.find(std::string(controller));
    if (own == cgroups.end() || !inside(own->second, hierarchy->root)) continue;
    return rebase(own->second, hierarchy->root, hierarchy->mountpoint);
  }
  return source;
}

}  // namespace stasis::mountmap
