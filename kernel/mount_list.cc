#include "kernel/mount_list.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "kernel/call.h"

#ifndef SYS_statmount
#define SYS_statmount 457
#endif
#ifndef SYS_listmount
#define SYS_listmount 458
#endif

namespace stasis::kernel {

namespace {

constexpr unsigned long ns_get_mntns_id = _IOR(0xb7, 5, uint64_t);
constexpr uint64_t listmount_root = ~uint64_t{0};  // LSMT_ROOT

struct MountIdRequest {  // struct mnt_id_req, the 32 bytes of Linux 6.11
  uint32_t size = sizeof(MountIdRequest);
  uint32_t spare = 0;
  uint64_t id = 0;
  uint64_t param = 0;
  uint64_t ns = 0;
};

struct RawStatmount {  // struct statmount; the strings are offsets into what follows it
  uint32_t size, options;
  uint64_t mask;
  uint32_t major, minor;
  uint64_t magic;
  uint32_t sb_flags, type;
  uint64_t id, parent;
  uint32_t old_id, old_parent;
  uint64_t attributes, propagation, peer_group, master, propagate_from;
  uint32_t root, point;
  uint64_t ns;
  uint32_t subtype, source;
  uint32_t option_fields[4];
  uint64_t supported;
  uint32_t uid_count, uids, gid_count, gids;
  uint64_t later_fields[43];
};
static_assert(sizeof(RawStatmount) == 512);

constexpr uint64_t wanted = statmount_sb_basic | statmount_mnt_basic | statmount_mnt_root |
                            statmount_mnt_point | statmount_fs_type | statmount_options |
                            statmount_fs_subtype | statmount_sb_source;

}  // namespace

long mount_namespace_id(pid_t pid, uint64_t& id) {
  std::string path = "/proc/" + std::to_string(pid) + "/ns/mnt";
  long fd = call(SYS_openat, AT_FDCWD, path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return fd;
  UniqueFd ns(static_cast<int>(fd));
  return call(SYS_ioctl, ns.get(), ns_get_mntns_id, &id);
}

long list_mounts(uint64_t ns, std::vector<uint64_t>& ids) {
  ids.clear();
  uint64_t batch[512];
  for (;;) {
    MountIdRequest request{.id = listmount_root, .param = ids.empty() ? 0 : ids.back(), .ns = ns};
    long n = call(SYS_listmount, &request, batch, std::size(batch), 0);
    if (n < 0) return n;
    ids.insert(ids.end(), batch, batch + n);
    if (static_cast<size_t>(n) < std::size(batch)) return 0;
  }
}

long stat_mount(uint64_t ns, uint64_t id, std::vector<char>& buffer, MountStat& out) {
  if (buffer.size() < 4096) buffer.resize(4096);
  MountIdRequest request{.id = id, .param = wanted, .ns = ns};
  for (;;) {
    long result = call(SYS_statmount, &request, buffer.data(), buffer.size(), 0);
    if (result == 0) break;
    if (result != -EOVERFLOW || buffer.size() > (16 << 20)) return result;
    buffer.resize(buffer.size() * 4);
  }
  RawStatmount raw;
  memcpy(&raw, buffer.data(), sizeof raw);
  size_t end = std::min<size_t>(raw.size, buffer.size());
  auto text = [&](uint64_t bit, uint32_t offset) -> std::string {
    size_t start = sizeof raw + offset;
    if (!(raw.mask & bit) || start >= end) return {};
    return {buffer.data() + start, strnlen(buffer.data() + start, end - start)};
  };
  out = MountStat{.mask = raw.mask,
                  .id = raw.id,
                  .parent = raw.parent,
                  .old_id = raw.old_id,
                  .old_parent = raw.old_parent,
                  .major = raw.major,
                  .minor = raw.minor,
                  .sb_flags = raw.sb_flags,
                  .attributes = raw.attributes,
                  .propagation = raw.propagation,
                  .peer_group = raw.peer_group,
                  .master = raw.master,
                  .root = text(statmount_mnt_root, raw.root),
                  .point = text(statmount_mnt_point, raw.point),
                  .type = text(statmount_fs_type, raw.type),
                  .subtype = text(statmount_fs_subtype, raw.subtype),
                  .source = text(statmount_sb_source, raw.source),
                  .options = text(statmount_options, raw.options)};
  return 0;
}

long mount_id_maps(uint64_t ns, uint64_t id, std::string& uids, std::string& gids) {
  constexpr uint64_t uid_map = 0x2000, gid_map = 0x4000, supported = 0x1000;
  MountIdRequest request{.id = id, .param = uid_map | gid_map | supported, .ns = ns};
  std::vector<char> buffer(64 << 10);  // 340 lines of 33 bytes at most, twice
  if (long result = call(SYS_statmount, &request, buffer.data(), buffer.size(), 0); result < 0)
    return result;
  RawStatmount raw;
  memcpy(&raw, buffer.data(), sizeof raw);
  if (!(raw.mask & supported) || !(raw.supported & uid_map)) return -EOPNOTSUPP;
  size_t end = std::min<size_t>(raw.size, buffer.size());
  auto lines = [&](uint64_t bit, uint32_t count, size_t offset) {
    std::string text;
    size_t at = sizeof raw + offset;
    for (uint32_t i = 0; (raw.mask & bit) && i < count && at < end; ++i) {
      std::string line(buffer.data() + at, strnlen(buffer.data() + at, end - at));
      at += line.size() + 1;
      text += line + "\n";
    }
    return text;
  };
  uids = lines(uid_map, raw.uid_count, raw.uids);
  gids = lines(gid_map, raw.gid_count, raw.gids);
  return 0;
}

}  // namespace stasis::kernel
