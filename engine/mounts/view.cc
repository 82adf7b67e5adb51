#include "engine/mounts/view.h"

#include <sched.h>
#include <sys/syscall.h>

#include <algorithm>
#include <exception>
#include <thread>

#include "engine/mounts/tree.h"
#include "kernel/fs.h"
#include "kernel/mount_api.h"

namespace stasis::engine::mounts {

namespace {

using mountmap::Mount;

constexpr uint64_t in_root = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;

class Viewer {
 public:
  explicit Viewer(const DumpPlan& plan)
      : plan_(plan),
        proc_("/proc/" + std::to_string(plan.root)),
        root_(kernel::open(proc_ + "/root", O_PATH | O_DIRECTORY)) {}

  std::vector<UniqueFd> open(const std::vector<const Mount*>& mounts);

 private:
  std::vector<const Mount*> standing_on(const Mount& mount) const;
  std::vector<const Mount*> covering(const Mount& mount) const;
  UniqueFd open_visible(const Mount& mount);
  void look_inside(const std::vector<const Mount*>& mounts, std::vector<UniqueFd>& views);
  UniqueFd uncover(const Mount& mount, const std::vector<const Mount*>& covers);

  const DumpPlan& plan_;
  std::string proc_;
  UniqueFd root_;
};

std::vector<const Mount*> Viewer::standing_on(const Mount& mount) const {
  std::vector<const Mount*> children;
  for (const auto& other : plan_.mounts.mounts())
    if (other.parent == mount.id && other.id != mount.id) children.push_back(&other);
  return children;
}

// What hides the root of `mount`: mounts at or above its place, on itself or on
// what its ancestors stand on. The order is that of unmounting.
std::vector<const Mount*> Viewer::covering(const Mount& mount) const {
  std::vector<const Mount*> covers;
  if (const Mount* parent = plan_.mounts.find(mount.parent); parent && parent != &mount) {
    covers = covering(*parent);
    // A cover at the place of the parent itself may be `mount`.
    std::erase(covers, &mount);
    std::vector<const Mount*> siblings;
    for (const Mount* other : standing_on(*parent))
      // One on the parent's own root is a cover of the parent already.
      if (other != &mount && other->mountpoint != parent->mountpoint &&
          is_beneath(mount.mountpoint, other->mountpoint))
        siblings.push_back(other);
    std::sort(siblings.begin(), siblings.end(), [](const Mount* a, const Mount* b) {
      return a->mountpoint.size() < b->mountpoint.size();
    });
    covers.insert(covers.end(), siblings.begin(), siblings.end());
  }
  for (const Mount* child : standing_on(mount))
    if (child->mountpoint == mount.mountpoint) covers.push_back(child);
  return covers;
}

UniqueFd Viewer::open_visible(const Mount& mount) {
  UniqueFd fd = kernel::open_in(root_.get(), mount.mountpoint, O_PATH | O_DIRECTORY, in_root);
  auto stat = kernel::stat_fd(fd.get(), STATX_BASIC_STATS | STATX_MNT_ID);
  if (stat.stx_mnt_id != static_cast<uint64_t>(mount.id))
    throw Error("reach the content of the mount", mount.mountpoint)
        .because("another mount is there now")
        .hint("The mounts were changed after the plan was made. Try again.");
  return fd;
}

std::vector<UniqueFd> Viewer::open(const std::vector<const Mount*>& mounts) {
  std::vector<UniqueFd> views(mounts.size());
  bool all_bare = true;
  for (size_t i = 0; i < mounts.size(); ++i) {
    if (covering(*mounts[i]).empty()) views[i] = open_visible(*mounts[i]);
    all_bare &= views[i].valid() && standing_on(*mounts[i]).empty();
  }
  if (all_bare) return views;
  // A copy of a mount without those on it can only be made from within its
  // namespace. That is a matter of a thread, as descriptors are common to all.
  std::exception_ptr failure;
  std::thread helper([&] {
    try {
      look_inside(mounts, views);
    } catch (...) {
      failure = std::current_exception();
    }
  });
  helper.join();
  if (failure) std::rethrow_exception(failure);
  return views;
}

void Viewer::look_inside(const std::vector<const Mount*>& mounts, std::vector<UniqueFd>& views) {
  UniqueFd ns = kernel::open(proc_ + "/ns/mnt", O_RDONLY);
  kernel::must(kernel::call(SYS_unshare, CLONE_FS), "enter", "the container's mount namespace");
  kernel::must(kernel::call(SYS_setns, ns.get(), CLONE_NEWNS), "enter",
               "the container's mount namespace");
  bool any_hidden = false;
  for (size_t i = 0; i < mounts.size(); ++i) {
    any_hidden |= !views[i].valid();
    if (views[i].valid() && !standing_on(*mounts[i]).empty())
      views[i] = kernel::open_tree(views[i].get(), "", OPEN_TREE_CLONE);
  }
  if (!any_hidden) return;
  for (size_t i = 0; i < mounts.size(); ++i) {
    if (views[i].valid()) continue;
    // A copy of the namespace for each, in which covers are taken away.
    kernel::must(kernel::call(SYS_unshare, CLONE_NEWNS), "copy", "the container's mount namespace");
    kernel::make_tree_private("/");
    views[i] = uncover(*mounts[i], covering(*mounts[i]));
    kernel::must(kernel::call(SYS_setns, ns.get(), CLONE_NEWNS), "enter",
                 "the container's mount namespace");
  }
}

UniqueFd Viewer::uncover(const Mount& mount, const std::vector<const Mount*>& covers) {
  for (const Mount* cover : covers) {
    // What stands at the root of the cover hides the cover itself.
    int layers = 1;
    for (const Mount* top = cover; top; ++layers) {
      auto above = standing_on(*top);
      auto next = std::find_if(above.begin(), above.end(), [top](const Mount* other) {
        return other->mountpoint == top->mountpoint;
      });
      top = next == above.end() ? nullptr : *next;
    }
    for (; layers > 1; --layers) kernel::detach_mount(cover->mountpoint);
  }
  UniqueFd fd = kernel::open_in(AT_FDCWD, mount.mountpoint, O_PATH | O_DIRECTORY,
                                RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
  auto stat = kernel::stat_fd(fd.get());
  if (stat.stx_dev_major != mount.major || stat.stx_dev_minor != mount.minor)
    throw Error("reach the content of the mount", mount.mountpoint)
        .because("other mounts cover it")
        .hint("Unmount what covers it in the container.");
  return kernel::open_tree(fd.get(), "", OPEN_TREE_CLONE);
}

}  // namespace

std::vector<UniqueFd> open_views(const DumpPlan& plan, const std::vector<const Mount*>& mounts) {
  return Viewer(plan).open(mounts);
}

}  // namespace stasis::engine::mounts
