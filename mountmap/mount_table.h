// The mounts of one mount namespace, in the kernel's order (a mount comes
// after its parent and after what it covers).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace stasis::mountmap {

struct Mount {
  int id = 0;                     // mount id as in mountinfo and fdinfo
  int parent = 0;                 // id of the parent mount; outside the table for the root
  uint64_t unique_id = 0;         // never reused (Linux 6.8 and newer), 0 when unknown
  unsigned major = 0, minor = 0;  // superblock device
  std::string root;               // path of the mount's root in its file system
  std::string mountpoint;         // as seen from the root of the process the table was read for
  uint64_t flags = 0;             // MS_RDONLY | MS_NOSUID | ... of the mount itself
  uint64_t sb_flags = 0;          // MS_RDONLY ... of the superblock
  int shared = 0;                 // peer group id of a shared mount, or 0
  int master = 0;                 // peer group id a slave receives from, or 0
  bool unbindable = false;
  bool idmapped = false;
  std::string fstype;  // "tmpfs", "fuse.lxcfs"
  std::string source;
  std::string sb_options;  // mountinfo's last field, without ro/rw and what is in sb_flags:
                           // "size=65536k,mode=755"

  bool operator==(const Mount&) const = default;
};

class MountTable {
 public:
  MountTable() = default;
  // In the kernel's order.
  explicit MountTable(std::vector<Mount> mounts) : mounts_(std::move(mounts)) {}

  // Parses the text of /proc/PID/mountinfo. Throws Error naming the line.
  static MountTable parse(std::string_view mountinfo);

  // Reads the table of process `pid`: by listmount and statmount where the
  // kernel has them, from mountinfo otherwise. The answers are the same.
  static MountTable read(pid_t pid);

  // The first of the two ways alone; nothing where it can't give the whole
  // answer (an older kernel, a root directory that isn't the namespace's).
  static std::optional<MountTable> read_by_statmount(pid_t pid);

  const std::vector<Mount>& mounts() const& { return mounts_; }
  // By value, so that `for (... : MountTable::read(pid).mounts())` is sound.
  std::vector<Mount> mounts() && { return std::move(mounts_); }
  const Mount* find(int id) const;
  const Mount& root() const;  // the mount at "/" whose parent is not in the table

  // The mount that a walk along `path` ends in: the topmost, visible one.
  const Mount* at(std::string_view path) const;

  // The mount that `path` ends in and all below it, mountpoints relative to
  // `path`: what will be a container's table once it has pivoted there. Empty
  // when no mount stands at `path` itself.
  MountTable below(std::string_view path) const;

 private:
  std::vector<Mount> mounts_;
};

}  // namespace stasis::mountmap
