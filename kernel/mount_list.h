// listmount(2) and statmount(2): the mounts of a namespace as structures. The
// uapi headers of Debian 12 (6.1) lack both, so the ABI is written down here.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace stasis::kernel {

// What statmount tells of one mount; strings are unescaped by the kernel,
// except `options`, which is as in mountinfo.
struct MountStat {
  uint64_t mask = 0;  // which of the STATMOUNT_ groups below the kernel filled in
  uint64_t id = 0, parent = 0;
  uint32_t old_id = 0, old_parent = 0;
  uint32_t major = 0, minor = 0, sb_flags = 0;
  uint64_t attributes = 0;   // MOUNT_ATTR_*
  uint64_t propagation = 0;  // MS_SHARED | MS_SLAVE | MS_PRIVATE | MS_UNBINDABLE
  uint64_t peer_group = 0, master = 0;
  std::string root, point, type, subtype, source, options;
};

constexpr uint64_t statmount_sb_basic = 0x1, statmount_mnt_basic = 0x2, statmount_mnt_root = 0x8,
                   statmount_mnt_point = 0x10, statmount_fs_type = 0x20, statmount_options = 0x80,
                   statmount_fs_subtype = 0x100, statmount_sb_source = 0x200;

// The id of the mount namespace of process `pid`; -errno where the process or
// the ioctl (Linux 6.11) is missing.
long mount_namespace_id(pid_t pid, uint64_t& id);

// The unique ids of all mounts of namespace `ns`, in its order. 0 or -errno.
long list_mounts(uint64_t ns, std::vector<uint64_t>& ids);

// 0 or -errno. `buffer` is scratch that grows; keep it between calls.
long stat_mount(uint64_t ns, uint64_t id, std::vector<char>& buffer, MountStat& out);

// The id maps of an id-mapped mount, in the form of /proc/PID/uid_map and as our
// own user namespace sees them. Empty where the mount has none. 0 or -errno;
// -EOPNOTSUPP where the kernel can't tell (before Linux 6.15).
long mount_id_maps(uint64_t ns, uint64_t id, std::string& uids, std::string& gids);

}  // namespace stasis::kernel
