// A mount table must be one tree whose paths follow its parents'.
#include <unordered_map>

#include "engine/image/check.h"

namespace stasis::image {
namespace {

bool is_below(std::string_view path, std::string_view directory) {
  if (directory == "/") return true;
  return path.substr(0, directory.size()) == directory &&
         (path.size() == directory.size() || path[directory.size()] == '/');
}

// From every mount the way up must end at the root.
void check_ways_up(const std::string& stem, const std::vector<MntEntry>& mounts,
                   const std::unordered_map<uint32_t, const MntEntry*>& by_id, uint32_t root) {
  std::unordered_map<uint32_t, bool> reaches{{root, true}};
  for (size_t i = 0; i < mounts.size(); ++i) {
    std::vector<uint32_t> way;
    uint32_t id = mounts[i].mnt_id();
    while (!reaches.count(id)) {
      reaches[id] = false;
      way.push_back(id);
      id = by_id.at(id)->parent_mnt_id();
    }
    expect(reaches[id], stem, static_cast<int64_t>(i), "mnt_id {} is its own ancestor",
           mounts[i].mnt_id());
    for (uint32_t each : way) reaches[each] = true;
  }
}

}  // namespace

void check_mount_ids(const std::map<uint32_t, std::vector<MntEntry>>& tables) {
  std::unordered_map<uint32_t, uint32_t> seen;  // mount -> namespace
  for (const auto& [ns_id, mounts] : tables)
    for (size_t i = 0; i < mounts.size(); ++i) {
      auto [first, is_new] = seen.emplace(mounts[i].mnt_id(), ns_id);
      expect(is_new || first->second == ns_id, stem_of("mountpoints", ns_id),
             static_cast<int64_t>(i), "mnt_id {} is in mountpoints-{}.img, too", mounts[i].mnt_id(),
             first->second);
    }
}

void check_mounts(const std::string& stem, const std::vector<MntEntry>& mounts) {
  expect(!mounts.empty(), stem, -1, "has no mount");
  std::unordered_map<uint32_t, const MntEntry*> by_id;
  for (size_t i = 0; i < mounts.size(); ++i)
    expect(by_id.emplace(mounts[i].mnt_id(), &mounts[i]).second && mounts[i].mnt_id() <= INT32_MAX,
           stem, static_cast<int64_t>(i), "mnt_id {} again", mounts[i].mnt_id());
  const MntEntry* root = nullptr;
  for (size_t i = 0; i < mounts.size(); ++i) {
    const MntEntry& mount = mounts[i];
    auto at = static_cast<int64_t>(i);
    expect(is_clean_path(mount.mountpoint()), stem, at, "mountpoint {} is no clean path",
           mount.mountpoint());
    expect(!mount.has_ext_key() || !mount.ext_key().empty(), stem, at, "an empty ext_key");
    auto parent = by_id.find(mount.parent_mnt_id());
    if (parent == by_id.end()) {
      expect(root == nullptr, stem, at, "mnt_id {}: parent {} is missing", mount.mnt_id(),
             mount.parent_mnt_id());
      expect(mount.mountpoint() == "/", stem, at, "the root is mounted at {}", mount.mountpoint());
      root = &mount;
    } else {
      expect(is_below(mount.mountpoint(), parent->second->mountpoint()), stem, at,
             "mountpoint {} is not below its parent's, {}", mount.mountpoint(),
             parent->second->mountpoint());
    }
  }
  expect(root != nullptr, stem, -1, "has no root");
  check_ways_up(stem, mounts, by_id, root->mnt_id());
}

}  // namespace stasis::image
