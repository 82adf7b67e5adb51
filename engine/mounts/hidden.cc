#include "engine/mounts/hidden.h"

#include <sys/stat.h>

#include "engine/image/checkpoint.h"
#include "engine/mounts/tree.h"
#include "mountmap/mount_table.h"

namespace stasis::engine::mounts {

namespace {

mountmap::MountTable table_of(const std::vector<image::MntEntry>& entries) {
  std::vector<mountmap::Mount> mounts;
  for (auto entry = entries.rbegin(); entry != entries.rend(); ++entry) {
    mountmap::Mount& mount = mounts.emplace_back();
    mount.id = static_cast<int>(entry->mnt_id());
    mount.parent = static_cast<int>(entry->parent_mnt_id());
    mount.mountpoint = entry->mountpoint();
  }
  return mountmap::MountTable(std::move(mounts));
}

}  // namespace

std::vector<HiddenFile> hidden_files(const image::Checkpoint& checkpoint) {
  std::vector<HiddenFile> hidden;
  for (const auto& [ns_id, entries] : checkpoint.mounts) {
    auto table = table_of(entries);
    for (const auto& [id, file] : checkpoint.files) {
      if (!file.has_reg() || !file.reg().name().starts_with('/')) continue;
      const auto& name = file.reg().name();
      const mountmap::Mount* mount = table.find(file.reg().mnt_id());
      if (!mount || table.at(name) == mount || !is_beneath(name, mount->mountpoint)) continue;
      hidden.push_back({id, static_cast<uint32_t>(mount->id), relative_to(name, mount->mountpoint),
                        S_ISLNK(file.reg().mode())});
    }
  }
  return hidden;
}

}  // namespace stasis::engine::mounts
