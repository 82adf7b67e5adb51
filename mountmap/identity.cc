#include "mountmap/identity.h"

#include "mountmap/paths.h"

namespace stasis::mountmap {

namespace {
constexpr std::string_view deleted = "//deleted";
}

bool FileIdentity::same_file_system(const FileIdentity& other) const {
  return major == other.major && minor == other.minor;
}

bool FileIdentity::same_file(const FileIdentity& other) const {
  return same_file_system(other) && inode == other.inode &&
         (born_ns == other.born_ns || born_ns == 0 || other.born_ns == 0);
}

std::vector<HostPlace> host_places(const MountTable& host, unsigned major, unsigned minor,
                                   const std::string& root) {
  std::vector<HostPlace> places;
  for (const auto& mount : host.mounts()) {
    if (mount.major != major || mount.minor != minor || !inside(root, mount.root)) continue;
    std::string path = rebase(root, mount.root, mount.mountpoint);
    bool visible = host.at(path) == &mount;
    places.push_back({&mount, std::move(path), visible});
  }
  return places;
}

bool is_deleted(const Mount& mount) { return mount.root.ends_with(deleted); }

std::string standing_root(const Mount& mount) {
  std::string root = mount.root;
  if (is_deleted(mount)) root.resize(root.size() - deleted.size());
  return root.empty() ? "/" : root;
}

}  // namespace stasis::mountmap
