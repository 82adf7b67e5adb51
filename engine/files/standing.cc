#include "engine/files/standing.h"

#include <fmt/core.h>

#include "engine/files/dead_task.h"
#include "engine/files/names.h"
#include "engine/mounts/spaces.h"
#include "engine/mounts/tree.h"
#include "engine/plan.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

namespace {

constexpr std::string_view deleted = " (deleted)";

Objection about(const Probe& probe, const std::string& what, const std::string& remedy) {
  return {fmt::format("holds {} open, {}", probe.described(), what), remedy};
}

Standing as_ghost(const Probe& probe, Standing standing, const Surroundings& around) {
  uint64_t bytes = probe.stat.stx_blocks * 512;
  standing.ghost = true;
  if (bytes > around.plan().ghost_limit)
    standing.objection = about(
        probe,
        fmt::format("a deleted file of {} bytes, more than the limit of {} for taking it along",
                    bytes, around.plan().ghost_limit),
        "raise the limit for deleted files (--ghost-limit)");
  else if (probe.is(S_IFCHR) || probe.is(S_IFBLK) || probe.is(S_IFSOCK))
    standing.objection = about(probe, "a deleted device or socket", "close it");
  return standing;
}

bool same_file(const struct statx& a, const struct statx& b) {
  if (S_ISCHR(a.stx_mode) && S_ISCHR(b.stx_mode))  // a device by another node is the same
    return a.stx_rdev_major == b.stx_rdev_major && a.stx_rdev_minor == b.stx_rdev_minor;
  return a.stx_ino == b.stx_ino && a.stx_dev_major == b.stx_dev_major &&
         a.stx_dev_minor == b.stx_dev_minor;
}

// Another name of a file, if it is on that mount at or beneath `path`.
std::optional<std::string> other_name(const Probe& probe, const mounts::Space& space,
                                      const mountmap::Mount& mount, const std::string& path,
                                      const Surroundings& around) {
  if (space.table->at(path)->id != mount.id) return std::nullopt;
  long top = kernel::try_open_in(around.root(space), path, O_PATH | O_NOFOLLOW,
                                 RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
  if (top < 0) return std::nullopt;
  UniqueFd held(static_cast<int>(top));
  auto is_it = [&](int fd) { return same_file(kernel::stat_fd(fd), probe.stat); };
  if (is_it(held.get())) return path;
  if (!S_ISDIR(kernel::stat_fd(held.get()).stx_mode)) return std::nullopt;
  auto below = find_beneath(held.get(), {probe.stat.stx_ino, mount.fstype == "overlay", is_it});
  if (!below) return std::nullopt;
  return (path == "/" ? "" : path) + *below;
}

// Of a file that has lost the name it is open under: on any mount of its file
// system that the container sees, most probably nearby.
bool find_other_name(const Probe& probe, const mounts::Place& own, const Surroundings& around,
                     Standing& standing) {
  auto found = [&](const mounts::Space& space, const mountmap::Mount& mount,
                   const std::string& path) {
    auto name = other_name(probe, space, mount, path, around);
    if (!name) return false;
    standing.name = *name;
    standing.mount = mount.id;
    return true;
  };
  std::string directory = standing.name.substr(0, standing.name.rfind('/'));
  if (!directory.empty() && found(own.space, *own.mount, directory)) return true;
  for (const mounts::Space& space : mounts::spaces_of(around.plan()))
    for (const mountmap::Mount& mount : space.table->mounts())
      if (mount.major == own.mount->major && mount.minor == own.mount->minor &&
          found(space, mount, mount.mountpoint))
        return true;
  return false;
}

// What the name leads to now on the mount that the file is on, though others may
// hide it; nothing when it leads nowhere.
std::optional<struct statx> look_up(const std::string& name, const mounts::Place& place,
                                    const Surroundings& around) {
  bool visible = place.space.table->at(name) == place.mount;
  std::string path = mounts::relative_to(name, visible ? "/" : place.mount->mountpoint);
  long fd = kernel::try_open_in(visible ? around.root(place.space) : around.view(place),
                                path.empty() ? "." : path, O_PATH | O_NOFOLLOW,
                                RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
  if (fd == -ENOENT || fd == -ENOTDIR) return std::nullopt;
  UniqueFd found(static_cast<int>(kernel::must(fd, "look up", name)));
  return kernel::stat_fd(found.get());
}

// mq_open() opens a queue by a mount of the kernel's own; any other of the same
// namespace's leads there, too.
const mountmap::Mount* queue_mount(const Probe& probe, const DumpPlan& plan) {
  for (const mountmap::Mount& mount : plan.mounts.mounts())
    if (mount.fstype == "mqueue" && mount.root == "/" && mount.major == probe.stat.stx_dev_major &&
        mount.minor == probe.stat.stx_dev_minor)
      return &mount;
  return nullptr;
}

}  // namespace

bool is_remote(const std::string& fstype) {
  for (std::string_view name :
       {"fuse", "nfs", "cifs", "smb3", "ceph", "9p", "autofs", "virtiofs", "afs", "lustre"})
    if (fstype.starts_with(name)) return true;
  return false;
}

void tell_inside(Probe& probe, const Surroundings& around) {
  const DumpPlan& plan = around.plan();
  if (!plan.find_mapped_file) return;
  // The mount that the kernel names is the layer's, in no table of the container.
  const mountmap::Mount* mount = mounts::find_mount(plan, probe.info.mnt_id).mount;
  const mounts::Place root = mounts::find_mount(plan, plan.mounts.root().id);
  if (mount && mount->fstype != root.mount->fstype) return;
  bool gone = probe.link.ends_with(deleted);
  auto file = plan.find_mapped_file(gone ? probe.link.substr(0, probe.link.size() - deleted.size())
                                         : probe.link);
  if (!file) return;
  probe.link = file->path;
  probe.info.mnt_id = root.mount->id;
  std::optional<struct statx> found;
  if (!gone && file->current) found = look_up(file->path, root, around);
  if (found) {
    probe.stat = *found;  // the numbers of the layer are others
    return;
  }
  probe.link += deleted;
  probe.stat.stx_nlink = 0;
}

UniqueFd open_container_root(const DumpPlan& plan) {
  std::string link = fmt::format("/proc/{}/root", plan.root);
  // The kernel tells paths from the root of the mount namespace.
  if (kernel::read_link(link) != "/")
    throw Error("dump the open files of", fmt::format("process {}", plan.root))
        .because("it has changed its root directory (chroot)");
  return kernel::open(link, O_PATH | O_DIRECTORY);
}

Standing standing_of(const Probe& probe, const Surroundings& around) {
  Standing standing;
  standing.name = probe.link;
  standing.mount = probe.info.mnt_id;
  mounts::Place place = mounts::find_mount(around.plan(), probe.info.mnt_id);
  if (!place.mount) {
    if (const mountmap::Mount* queues = queue_mount(probe, around.plan())) {
      place = mounts::find_mount(around.plan(), queues->id);
      standing.name = queues->mountpoint + probe.link;
      standing.mount = queues->id;
    }
  }
  const mountmap::Mount* mount = place.mount;
  if (!mount) {
    standing.outside = true;
    standing.objection = about(probe, "which lies outside of the container's mounts",
                               "start the container with pipes or /dev/null as its stdio, and "
                               "without other descriptors from outside");
    return standing;
  }
  bool suffix = probe.link.ends_with(deleted);
  if (is_remote(mount->fstype)) {
    if (suffix || probe.stat.stx_nlink == 0)
      standing.objection = about(probe, "a deleted file on " + mount->fstype, "close it");
    return standing;
  }
  bool in_proc = mount->fstype == "proc";
  if (mount->fstype == "mqueue" && probe.stat.stx_nlink == 0) {
    standing.objection = about(probe, "a message queue that was removed", "close it");
    return standing;
  }
  if (probe.stat.stx_nlink == 0 && !in_proc) {
    if (suffix) standing.name.resize(standing.name.size() - deleted.size());
    return as_ghost(probe, std::move(standing), around);
  }
  std::optional<struct statx> found;
  try {
    found = look_up(standing.name, place, around);
  } catch (const Error& error) {
    standing.objection = about(probe, "which can't be looked at: " + std::string(error.what()),
                               "unmount what covers it, or close it");
    return standing;
  }
  if (found && same_file(*found, probe.stat)) return standing;
  if (in_proc && !found) {
    if (suffix) standing.name.resize(standing.name.size() - deleted.size());
    standing.dead = process_of(standing.name, mount->mountpoint);
    if (standing.dead) return standing;
    standing.objection = about(probe, "which belongs to a process that has ended", "close it");
    return standing;
  }
  bool may_have_others = mount->fstype != "overlay" || probe.stat.stx_nlink > 1;
  if (suffix && may_have_others && find_other_name(probe, place, around, standing)) return standing;
  // A file from a lower layer keeps its link count when it is deleted.
  if (suffix && mount->fstype == "overlay") {
    standing.name.resize(standing.name.size() - deleted.size());
    return as_ghost(probe, std::move(standing), around);
  }
  if (suffix)
    standing.objection =
        about(probe, "whose name was removed while it has others that the container doesn't see",
              "close it");
  else if (found)
    standing.objection = about(probe, "which something mounted over it now covers",
                               "unmount what covers it, or close it");
  else
    standing.objection = about(probe, "which cannot be found by its name any more", "close it");
  return standing;
}

}  // namespace stasis::engine::files
