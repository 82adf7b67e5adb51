#include "engine/mounts/handover.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#include <map>

#include "engine/mounts/mountpoint.h"
#include "kernel/fs.h"
#include "kernel/mount_api.h"

namespace stasis::engine::mounts {

namespace {

constexpr const char* own_place = "own";

UniqueFd make_mountpoint(int parent, const std::string& name, bool directory) {
  if (!directory) return kernel::open_at(parent, name, O_RDONLY | O_CREAT | O_EXCL, 0600);
  kernel::must(kernel::call(SYS_mkdirat, parent, name.c_str(), 0755),
               "create the staging directory", name);
  return kernel::open_at(parent, name, O_PATH | O_DIRECTORY);
}

// Some directory that may be covered for a moment. Not the root itself: what
// covers it in a user namespace could not be taken away any more.
UniqueFd find_place(const std::string& wanted) {
  UniqueFd root = kernel::open("/", O_PATH | O_DIRECTORY);
  for (const std::string& path : {wanted, std::string("/tmp"), std::string("/run")}) {
    long fd = kernel::try_open_in(AT_FDCWD, path, O_PATH | O_DIRECTORY, 0);
    if (fd < 0) continue;
    UniqueFd place(static_cast<int>(fd));
    if (!is_same_place(place.get(), root.get())) return place;
  }
  throw Error("find a place for mounts of the host at", wanted)
      .because("neither it nor /tmp nor /run is a directory other than the root")
      .hint("Name the container's root directory: --root DIR.");
}

// Beneath it the clone has no rights of the host's root: all is open to it.
UniqueFd make_staging(const std::string& place) {
  kernel::FsContext context("tmpfs");
  context.set("source", "stasis");
  context.set("mode", "755");
  context.create();
  UniqueFd staging = context.mount(0);
  kernel::attach_mount(staging.get(), find_place(place).get(), "the staging area");
  return staging;
}

std::string whole(int mount) { return "whole-" + std::to_string(mount); }

UniqueFd private_copy(int mount) {
  UniqueFd copy = kernel::open_tree(mount, "", OPEN_TREE_CLONE);
  kernel::set_mount_attributes(copy.get(), 0, 0, MS_PRIVATE, "the staging area");
  return copy;
}

void stage_wholes(int staging, const std::vector<UniqueFd>& mounts,
                  const std::vector<Locked>& locked) {
  std::map<int, UniqueFd> copies;
  for (const Locked& one : locked) {
    UniqueFd& parent = copies[one.parent];
    if (!parent.valid()) {
      parent = private_copy(mounts[one.parent].get());
      UniqueFd target = make_mountpoint(staging, whole(one.parent), is_directory(parent.get()));
      kernel::attach_mount(parent.get(), target.get(), "the staging area");
    }
    UniqueFd child = private_copy(mounts[one.node].get());
    UniqueFd target = kernel::open_in(parent.get(), one.path, O_PATH | O_NOFOLLOW, within_mount);
    kernel::attach_mount(child.get(), target.get(), one.path);
    copies[one.node] = std::move(child);
  }
}

}  // namespace

Handover::Handover(const std::string& place, const std::vector<UniqueFd>& mounts,
                   const std::vector<Locked>& locked)
    : home_(kernel::open("/proc/thread-self/ns/mnt", O_RDONLY)),
      root_(kernel::open("/", O_PATH | O_DIRECTORY)),
      directory_(kernel::open(".", O_PATH | O_DIRECTORY)) {
  kernel::must(kernel::call(SYS_unshare, CLONE_NEWNS), "make", "a mount namespace for a moment");
  try {
    kernel::make_tree_private("/");
    UniqueFd staging = make_staging(place);
    for (size_t i = 0; i < mounts.size(); ++i) {
      if (!mounts[i].valid()) continue;
      UniqueFd target =
          make_mountpoint(staging.get(), std::to_string(i), is_directory(mounts[i].get()));
      kernel::attach_mount(mounts[i].get(), target.get(), "the staging area");
    }
    stage_wholes(staging.get(), mounts, locked);
    make_mountpoint(staging.get(), own_place, true);
    kernel::must(kernel::call(SYS_fchdir, staging.get()), "enter", "the staging area");
  } catch (...) {
    go_home();
    throw;
  }
}

Handover::~Handover() { go_home(); }

// Entering a mount namespace moves root and working directory.
void Handover::go_home() noexcept {
  if (kernel::call(SYS_setns, home_.get(), CLONE_NEWNS) < 0)
    kernel::call(SYS_setns, home_.get(), CLONE_NEWNS);
  kernel::call(SYS_fchdir, root_.get());
  kernel::call(SYS_chroot, ".");
  kernel::call(SYS_fchdir, directory_.get());
}

std::vector<UniqueFd> take_over(const std::vector<UniqueFd>& mounts) {
  std::vector<UniqueFd> copies(mounts.size());
  for (size_t i = 0; i < mounts.size(); ++i)
    if (mounts[i].valid()) copies[i] = kernel::open(std::to_string(i), O_PATH | O_NOFOLLOW);
  return copies;
}

UniqueFd copy_whole(int mount) {
  UniqueFd fd = kernel::open(whole(mount), O_PATH | O_NOFOLLOW);
  return kernel::open_tree(fd.get(), "", OPEN_TREE_CLONE | AT_RECURSIVE);
}

UniqueFd take_over_place() { return kernel::open(own_place, O_PATH | O_DIRECTORY); }

}  // namespace stasis::engine::mounts
