#include "engine/mounts/id_maps.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "engine/mounts/spaces.h"
#include "engine/namespaces/userns.h"
#include "kernel/fs.h"
#include "kernel/mount_api.h"
#include "kernel/mount_list.h"

namespace stasis::engine::mounts {

namespace {

#ifndef STATX_MNT_ID_UNIQUE
#define STATX_MNT_ID_UNIQUE 0x4000U
#endif

using Maps = std::pair<std::string, std::string>;  // of uids and of gids; empty: none

Error refusal(const image::MntEntry& entry, const std::string& cause) {
  return Error("checkpoint the mount", describe(entry))
      .because("its user ids are mapped (idmap), " + cause)
      .hint("Mount it without an id mapping, or unmount it in the container.");
}

Maps maps_of(const Place& place, const image::MntEntry& entry) {
  Maps maps;
  if (!place.mount->idmapped) return maps;
  uint64_t ns = 0;
  long result = kernel::mount_namespace_id(place.space.pid, ns);
  if (result >= 0 && place.mount->unique_id)
    result = kernel::mount_id_maps(ns, place.mount->unique_id, maps.first, maps.second);
  if (result < 0 || maps.first.empty())
    throw refusal(entry, "which this kernel can't tell (Linux 6.15 can)");
  return maps;
}

}  // namespace

std::vector<image::MountIdMap> find_id_maps(const DumpPlan& plan, const Tree& tree) {
  std::vector<image::MountIdMap> found;
  auto has_any = [](const Space& space) {
    const auto& mounts = space.table->mounts();
    return std::any_of(mounts.begin(), mounts.end(),
                       [](const auto& mount) { return mount.idmapped; });
  };
  auto spaces = spaces_of(plan);
  if (std::none_of(spaces.begin(), spaces.end(), has_any)) return found;
  auto of_node = [&](int i) {
    const auto& entry = *tree.nodes[i].entry;
    return maps_of(find_mount(plan, static_cast<int>(entry.mnt_id())), entry);
  };
  for (size_t i = 0; i < tree.nodes.size(); ++i) {
    const Node& node = tree.nodes[i];
    Maps maps = of_node(static_cast<int>(i));
    if (node.how == How::bind) {
      // A copy has the maps of what it is copied from.
      Maps source = node.source < 0 ? Maps() : of_node(node.source);
      if (maps != source)
        throw refusal(*node.entry, "otherwise than those of what it is a bind of");
      continue;
    }
    if (maps.first.empty()) continue;
    if (node.how != How::external)
      throw refusal(*node.entry, "and only the host's mounts can be made again so");
    image::MountIdMap& record = found.emplace_back();
    record.set_mnt_id(node.entry->mnt_id());
    *record.mutable_uid_map() = userns::parse_map(maps.first);
    *record.mutable_gid_map() = userns::parse_map(maps.second);
  }
  return found;
}

void restore_id_map(const image::MountIdMap& record, int mount, int source,
                    const std::string& name) {
  image::UsernsEntry maps;
  *maps.mutable_uid_map() = record.uid_map();
  *maps.mutable_gid_map() = record.gid_map();
  Maps wanted{userns::to_text(record.uid_map()), userns::to_text(record.gid_map())}, now;
  auto stat = kernel::stat_fd(source, STATX_BASIC_STATS | STATX_MNT_ID_UNIQUE);
  if (stat.stx_mask & STATX_MNT_ID_UNIQUE)
    kernel::mount_id_maps(0, stat.stx_mnt_id, now.first, now.second);
  if (now == wanted) return;
  if (!now.first.empty())
    throw Error("restore the mount", name)
        .because("the ids of its source are mapped otherwise than they were at the dump")
        .hint("Mount the source without an id mapping, or with that of the checkpoint.");
  kernel::map_mount_ids(mount, userns::make(maps).get(), name);
}

}  // namespace stasis::engine::mounts
