#include "engine/mounts/locked.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "base/text.h"
#include "engine/files/standing.h"
#include "engine/mounts/spaces.h"
#include "engine/namespaces/userns.h"
#include "kernel/fs.h"
#include "kernel/mount_api.h"
#include "stasis.pb.h"

namespace stasis::engine::mounts {

namespace {

using mountmap::Mount;

// Nothing covers it, and looking there waits for nobody.
std::vector<const Mount*> in_sight(const DumpPlan& plan) {
  constexpr uint64_t in_root = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  UniqueFd root = open_root({plan.root, &plan.mounts});
  std::vector<const Mount*> seen;
  for (const Mount& mount : plan.mounts.mounts()) {
    const Mount* parent = plan.mounts.find(mount.parent);
    if (!parent || parent == &mount || mount.mountpoint == "/" || files::is_remote(mount.fstype) ||
        files::is_remote(parent->fstype))
      continue;
    long fd = kernel::try_open_in(root.get(), mount.mountpoint, O_PATH | O_NOFOLLOW, in_root);
    if (fd < 0) continue;
    UniqueFd there(static_cast<int>(fd));
    auto stat = kernel::stat_fd(there.get(), STATX_BASIC_STATS | STATX_MNT_ID);
    if (stat.stx_mnt_id == static_cast<uint64_t>(mount.id)) seen.push_back(&mount);
  }
  return seen;
}

// In a copy of the container's namespace, which is gone afterwards.
std::string try_to_unmount(int ns, const std::vector<const Mount*>& mounts) {
  long entered = kernel::call(SYS_setns, ns, CLONE_NEWNS);
  if (entered == -EPERM) return "";  // not theirs: they can't unmount anything there
  kernel::must(entered, "enter", "the container's mount namespace");
  kernel::must(kernel::call(SYS_unshare, CLONE_NEWNS), "copy", "the container's mount namespace");
  kernel::make_tree_private("/");
  std::string locked;
  for (auto mount = mounts.rbegin(); mount != mounts.rend(); ++mount) {
    long done =
        kernel::call(SYS_umount2, (*mount)->mountpoint.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW);
    if (done == -EINVAL)
      locked += std::to_string((*mount)->id) + " ";
    else
      kernel::must(done, "try to unmount", (*mount)->mountpoint);
  }
  return locked;
}

}  // namespace

std::vector<uint32_t> find_locked(const DumpPlan& plan) {
  std::vector<uint32_t> locked;
  if (!userns::IdMap::of(plan.root).maps()) return locked;
  std::vector<const Mount*> mounts = in_sight(plan);
  UniqueFd ns = kernel::open("/proc/" + std::to_string(plan.root) + "/ns/mnt", O_RDONLY);
  std::string found =
      userns::in_user_namespace(plan.root, [&] { return try_to_unmount(ns.get(), mounts); });
  for (std::string_view id : text::words(found))
    if (auto number = text::to_int<uint32_t>(id)) locked.push_back(*number);
  return locked;
}

std::vector<Locked> to_be_locked(const image::Checkpoint& checkpoint, const Tree& tree,
                                 const std::vector<UniqueFd>& sources,
                                 const std::vector<HiddenFile>& hidden, Log& log) {
  std::vector<Locked> all;
  if (!checkpoint.more) return all;
  std::set<uint32_t> wanted(checkpoint.more->locked_mounts().begin(),
                            checkpoint.more->locked_mounts().end());
  auto whole = [&](int i) {
    return sources[i].valid() && tree.nodes[i].subpath.empty() && !tree.planted.contains(i);
  };
  // Whether others stand on the parent there, or above.
  auto covered = [&](int i) {
    const Node& node = tree.nodes[i];
    return std::any_of(tree.nodes.begin(), tree.nodes.end(), [&](const Node& other) {
      return &other != &node && other.parent == node.parent &&
             is_beneath(node.entry->mountpoint(), other.entry->mountpoint());
    });
  };
  auto hides_files = [&](int i) {
    return std::any_of(hidden.begin(), hidden.end(), [&](const HiddenFile& file) {
      return file.mount == tree.nodes[i].entry->mnt_id();
    });
  };
  for (int i : tree.order) {
    const Node& node = tree.nodes[i];
    if (!wanted.contains(node.entry->mnt_id()) || node.parent < 0) continue;
    std::string path =
        relative_to(node.entry->mountpoint(), tree.nodes[node.parent].entry->mountpoint());
    if (node.space == 0 && !path.empty() && whole(i) && whole(node.parent) && !covered(i) &&
        !hides_files(node.parent))
      all.push_back({i, node.parent, std::move(path)});
    else
      log.warn("{} could not be unmounted in the container, and now it can", describe(*node.entry));
  }
  return all;
}

}  // namespace stasis::engine::mounts
