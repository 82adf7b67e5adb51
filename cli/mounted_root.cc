#include "cli/mounted_root.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel/fs.h"
#include "kernel/mount_api.h"
#include "mountmap/mount_table.h"
#include "plugins/providers.h"

namespace stasis::cli {
namespace {

mountmap::ProvidedMount root_of(const image::Checkpoint& image) {
  auto entries = image.mounts.find(image.root().ids.mnt_ns_id());
  if (image.more && entries != image.mounts.end())
    for (const auto& provided : image.more->provided())
      for (const auto& entry : entries->second)
        if (entry.mnt_id() == provided.mnt_id() && entry.mountpoint() == "/" &&
            !entry.with_plugin())
          return {provided.provider(), provided.description()};
  throw Error("mount the root of the checkpoint", "")
      .because("it doesn't tell of which layers it was made")
      .hint("Only aufs and overlay are told, by checkpoints of stasis. Mount it by hand.");
}

}  // namespace

MountedRoot::MountedRoot(const image::Checkpoint& image, const std::string& path) {
  auto root = root_of(image);
  UniqueFd place = kernel::open(path, O_PATH | O_DIRECTORY);
  std::string real = kernel::read_link("/proc/self/fd/" + std::to_string(place.get()));
  if (mountmap::MountTable::read(getpid()).at(real)->mountpoint == real)
    throw Error("mount the root of the checkpoint at", path)
        .because("something is mounted there already")
        .hint("Leave out --mount-root, or unmount it.");
  UniqueFd mount = plugins::Providers().make_root(root);
  kernel::attach_mount(mount.get(), place.get(), path);
  path_ = real;
}

MountedRoot::~MountedRoot() {
  if (!path_.empty()) kernel::call(SYS_umount2, path_.c_str(), MNT_DETACH);
}

}  // namespace stasis::cli
