#include "hook/file_fit.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>

#include <algorithm>
#include <set>
#include <string>

#include "engine/files/regular.h"
#include "kernel/fs.h"
#include "mountmap/config_key.h"
#include "mountmap/paths.h"

namespace stasis::hook {

namespace {

std::set<std::string> mount_points(const image::Checkpoint& checkpoint, const oci::Config& config) {
  std::set<std::string> points;
  for (const oci::ConfigMount& mount : config.mounts)
    points.insert(mountmap::key_of(config, mount.destination));
  auto mounts = checkpoint.mounts.find(checkpoint.root().ids.mnt_ns_id());
  if (mounts != checkpoint.mounts.end())
    for (const image::MntEntry& entry : mounts->second) points.insert(entry.mountpoint());
  points.erase("/");
  return points;
}

bool is_by_path(const image::Checkpoint& checkpoint, const image::FileEntry& file) {
  const image::RegFileEntry& entry = file.reg();
  bool stands_for_itself = std::ranges::none_of(
      checkpoint.remaps, [&](const auto& remap) { return remap.orig_id() == entry.id(); });
  return file.type() == image::REG && !entry.ext() && entry.name().size() > 1 &&
         entry.name().starts_with('/') && stands_for_itself &&
         (S_ISREG(entry.mode()) || S_ISDIR(entry.mode()));
}

}  // namespace

void check_root_files(const image::Checkpoint& checkpoint, const oci::Config& config) {
  long fd = kernel::call(SYS_openat, AT_FDCWD, config.root_path.c_str(),
                         O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;  // the runtime's to tell, or seen by nobody outside
  UniqueFd root(static_cast<int>(fd));
  std::set<std::string> points = mount_points(checkpoint, config);
  for (const auto& [id, file] : checkpoint.files) {
    if (!is_by_path(checkpoint, file)) continue;
    const image::RegFileEntry& entry = file.reg();
    if (std::ranges::any_of(points, [&](const std::string& point) {
          return mountmap::inside(entry.name(), point);
        }))
      continue;
    long node = kernel::try_open_in(root.get(), entry.name().substr(1), O_PATH | O_NOFOLLOW,
                                    RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
    UniqueFd found(static_cast<int>(kernel::must(node, "restore file", entry.name())));
    engine::files::check_same(entry, kernel::stat_fd(found.get()), 0);
  }
}

}  // namespace stasis::hook
