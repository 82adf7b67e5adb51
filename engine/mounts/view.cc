#include "engine/mounts/view.h"

#include <sched.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <map>
#include <thread>
#include <unordered_map>

#include "base/text.h"
#include "engine/mounts/tree.h"
#include "engine/namespaces/userns.h"
#include "kernel/fs.h"
#include "kernel/mount_api.h"

namespace stasis::engine::mounts {

namespace {

using mountmap::Mount;

constexpr uint64_t in_root = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;

// Not where others are locked to it, as all that one recursive bind brought into a
// container with a user namespace is.
UniqueFd without_others(const Mount& mount, const UniqueFd& fd) try {
  return kernel::open_tree(fd.get(), "", OPEN_TREE_CLONE);
} catch (const Error& error) {
  if (error.code() != EINVAL) throw;
  throw Error("reach the content of the mount", mount.mountpoint)
      .because("the kernel doesn't let mounts that came with it from the host be lifted")
      .hint("It is the host's: name it, as --external mnt[" + mount.mountpoint + "]:NAME.");
}

class Viewer {
 public:
  explicit Viewer(const Space& space)
      : pid_(space.pid), proc_("/proc/" + std::to_string(space.pid)), root_(open_root(space)) {
    for (const auto& mount : space.table->mounts()) {
      by_id_[mount.id] = &mount;
      if (mount.parent != mount.id) standing_on_[mount.parent].emplace(mount.mountpoint, &mount);
    }
  }

  std::vector<UniqueFd> open(const std::vector<const Mount*>& mounts);

 private:
  std::vector<const Mount*> at(const Mount& parent, const std::string& place) const;
  bool is_bare(const Mount& mount) const { return !standing_on_.contains(mount.id); }
  std::vector<const Mount*> covering(const Mount& mount) const;
  UniqueFd open_visible(const Mount& mount);
  void look_inside(int ns, const std::vector<const Mount*>& mounts, std::vector<UniqueFd>& views);
  UniqueFd uncover(const Mount& mount, const std::vector<const Mount*>& covers);

  pid_t pid_;
  std::string proc_;
  UniqueFd root_;
  std::unordered_map<int, const Mount*> by_id_;
  std::unordered_map<int, std::multimap<std::string, const Mount*>> standing_on_;
};

// What stands on `parent` at this very place.
std::vector<const Mount*> Viewer::at(const Mount& parent, const std::string& place) const {
  std::vector<const Mount*> found;
  auto children = standing_on_.find(parent.id);
  if (children == standing_on_.end()) return found;
  auto [first, last] = children->second.equal_range(place);
  for (; first != last; ++first) found.push_back(first->second);
  return found;
}

// What hides the root of `mount`: mounts at or above its place, on itself or on
// what its ancestors stand on. The order is that of unmounting.
std::vector<const Mount*> Viewer::covering(const Mount& mount) const {
  std::vector<const Mount*> covers;
  auto parent = by_id_.find(mount.parent);
  if (parent != by_id_.end() && parent->second != &mount) {
    covers = covering(*parent->second);
    // Between the parent's place, whose covers we have, and that of `mount`.
    const std::string& place = mount.mountpoint;
    for (size_t end = parent->second->mountpoint.size(); end < place.size();) {
      end = std::min(place.find('/', end + 1), place.size());
      for (const Mount* sibling : at(*parent->second, place.substr(0, end)))
        covers.push_back(sibling);
    }
    std::erase(covers, &mount);
  }
  for (const Mount* child : at(mount, mount.mountpoint)) covers.push_back(child);
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
    all_bare &= views[i].valid() && is_bare(*mounts[i]);
  }
  if (all_bare) return views;
  // A copy of a mount without those on it can only be made from within its
  // namespace.
  UniqueFd ns = kernel::open(proc_ + "/ns/mnt", O_RDONLY);
  if (userns::IdMap::of(pid_).maps()) {
    // What covers others could not be taken away in a copy that isn't made by the
    // owner of the namespace.
    std::string numbers = userns::in_user_namespace(pid_, [&] {
      look_inside(ns.get(), mounts, views);
      std::string all;
      for (const UniqueFd& view : views) all += std::to_string(view.get()) + " ";
      return all;
    });
    auto words = text::words(numbers);
    for (size_t i = 0; i < views.size(); ++i) {
      (void)views[i].release();
      views[i].reset(text::to_int<int>(words.at(i)).value());
    }
    return views;
  }
  // That is a matter of a thread, as descriptors are common to all.
  std::exception_ptr failure;
  std::thread helper([&] {
    try {
      look_inside(ns.get(), mounts, views);
    } catch (...) {
      failure = std::current_exception();
    }
  });
  helper.join();
  if (failure) std::rethrow_exception(failure);
  return views;
}

void Viewer::look_inside(int ns, const std::vector<const Mount*>& mounts,
                         std::vector<UniqueFd>& views) {
  kernel::must(kernel::call(SYS_unshare, CLONE_FS), "enter", "the container's mount namespace");
  kernel::must(kernel::call(SYS_setns, ns, CLONE_NEWNS), "enter",
               "the container's mount namespace");
  bool any_hidden = false;
  for (size_t i = 0; i < mounts.size(); ++i) {
    // An unbindable one can be copied only with all of its namespace.
    if (mounts[i]->unbindable && !is_bare(*mounts[i])) views[i].reset();
    any_hidden |= !views[i].valid();
    if (views[i].valid() && !is_bare(*mounts[i])) views[i] = without_others(*mounts[i], views[i]);
  }
  if (!any_hidden) return;
  for (size_t i = 0; i < mounts.size(); ++i) {
    if (views[i].valid()) continue;
    // A copy of the namespace for each, in which covers are taken away.
    kernel::must(kernel::call(SYS_unshare, CLONE_NEWNS), "copy", "the container's mount namespace");
    kernel::make_tree_private("/");
    views[i] = uncover(*mounts[i], covering(*mounts[i]));
    kernel::must(kernel::call(SYS_setns, ns, CLONE_NEWNS), "enter",
                 "the container's mount namespace");
  }
}

UniqueFd Viewer::uncover(const Mount& mount, const std::vector<const Mount*>& covers) {
  for (const Mount* cover : covers) {
    // What stands at the root of the cover hides the cover itself.
    int layers = 1;
    for (const Mount* top = cover; top; ++layers) {
      auto above = at(*top, top->mountpoint);
      top = above.empty() ? nullptr : above.front();
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

std::vector<UniqueFd> open_views(const Space& space, const std::vector<const Mount*>& mounts) {
  return Viewer(space).open(mounts);
}

UniqueFd open_view(const Place& place) {
  UniqueFd root = open_root(place.space);
  long fd = kernel::try_open_in(root.get(), place.mount->mountpoint, O_PATH | O_NOFOLLOW, in_root);
  if (fd >= 0) {
    UniqueFd seen(static_cast<int>(fd));
    auto stat = kernel::stat_fd(seen.get(), STATX_BASIC_STATS | STATX_MNT_ID);
    if (stat.stx_mnt_id == static_cast<uint64_t>(place.mount->id) && !S_ISDIR(stat.stx_mode))
      return seen;
  }
  return std::move(open_views(place.space, {place.mount})[0]);
}

}  // namespace stasis::engine::mounts
