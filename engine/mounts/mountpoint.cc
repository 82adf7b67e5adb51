#include "engine/mounts/mountpoint.h"

#include <sys/stat.h>

#include <cerrno>

#include "base/error.h"
#include "kernel/fs.h"

namespace stasis::engine::mounts {

bool is_directory(int fd) { return S_ISDIR(kernel::stat_fd(fd, STATX_TYPE).stx_mode); }

bool is_same_place(int a, int b) {
  constexpr unsigned identity = STATX_INO | STATX_MNT_ID;
  auto one = kernel::stat_fd(a, identity), other = kernel::stat_fd(b, identity);
  return one.stx_ino == other.stx_ino && one.stx_mnt_id == other.stx_mnt_id;
}

UniqueFd open_mountpoint(const Tree& tree, int i, int parent) {
  const Node& node = tree.nodes[i];
  const auto& place = node.entry->mountpoint();
  std::string path = relative_to(place, tree.nodes[node.parent].entry->mountpoint());
  if (path.empty()) return UniqueFd();
  long fd = kernel::try_open_in(parent, path, O_PATH | O_NOFOLLOW, within_mount);
  if (fd == -ENOENT || fd == -ENOTDIR)
    throw Error("restore the mount", describe(*node.entry))
        .with_errno(static_cast<int>(-fd))
        .because("its mountpoint is missing")
        .hint("Create it in the container's root directory.");
  return UniqueFd(static_cast<int>(kernel::must(fd, "open the mountpoint", place)));
}

}  // namespace stasis::engine::mounts
