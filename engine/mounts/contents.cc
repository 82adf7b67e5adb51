#include "engine/mounts/contents.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>

#include "engine/image/checkpoint.h"
#include "engine/mounts/archive.h"
#include "engine/namespaces/userns.h"
#include "kernel/directories.h"
#include "kernel/fs.h"

namespace stasis::engine::mounts {

namespace {

struct statfs file_system(int directory) {
  struct statfs stat{};
  kernel::must(kernel::call(SYS_fstatfs, directory, &stat), "look at", "a mount");
  return stat;
}

// Those that the runtime itself fills, or masks what lies below with.
bool is_runtimes(const std::string& point) {
  return point == "/dev" || point.starts_with("/sys/") || point.starts_with("/proc/");
}

bool is_mount(int directory) {
  return (kernel::stat_fd(directory).stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

// Its owners are written as they are seen inside.
void unpack_as(pid_t init, const image::Checkpoint& checkpoint, const std::string& archive,
               int directory, const std::string& point) {
  UniqueFd content = checkpoint.dir.raw(archive);
  if (!checkpoint.userns) return unpack(content.get(), directory, point);
  userns::in_user_namespace(init, [&] {
    userns::become_root();
    unpack(content.get(), directory, point);
    return std::string();
  });
}

}  // namespace

void fill_empty(const image::Checkpoint& checkpoint, int root, pid_t init, Log& log) {
  auto entries = checkpoint.mounts.find(checkpoint.root().ids.mnt_ns_id());
  if (entries == checkpoint.mounts.end()) return;
  // The image has the last mount first.
  for (auto entry = entries->second.rbegin(); entry != entries->second.rend(); ++entry) {
    const std::string& point = entry->mountpoint();
    std::string archive = archive_of(entry->root_dev());
    if (entry->root() != "/" || point.size() < 2 || is_runtimes(point) ||
        !checkpoint.dir.has(archive))
      continue;
    long fd = kernel::try_open_in(root, point.substr(1), O_RDONLY | O_DIRECTORY,
                                  RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
    UniqueFd directory(fd < 0 ? -1 : static_cast<int>(fd));
    if (!directory || !is_mount(directory.get()) ||
        file_system(directory.get()).f_type != TMPFS_MAGIC)
      log.warn("The content of {} is left out: the container has no tmpfs there", point);
    else if (file_system(directory.get()).f_flags & ST_RDONLY)
      log.debug("{} is read-only", point);
    else if (kernel::entries(directory.get(), point).empty())
      unpack_as(init, checkpoint, archive, directory.get(), point);
    else
      log.warn("The content of {} is left out: it isn't empty now", point);
  }
}

}  // namespace stasis::engine::mounts
