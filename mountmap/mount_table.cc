#include "mountmap/mount_table.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <unordered_map>
#include <unordered_set>

#include "base/text.h"
#include "kernel/fs.h"
#include "kernel/mount_list.h"

namespace stasis::mountmap {

namespace {

struct FlagName {
  std::string_view name;
  uint64_t flag;
};
constexpr std::array mount_flags{
    FlagName{"ro", MS_RDONLY},         FlagName{"nosuid", MS_NOSUID},
    FlagName{"nodev", MS_NODEV},       FlagName{"noexec", MS_NOEXEC},
    FlagName{"noatime", MS_NOATIME},   FlagName{"nodiratime", MS_NODIRATIME},
    FlagName{"relatime", MS_RELATIME}, FlagName{"nosymfollow", 256 /* MS_NOSYMFOLLOW */}};
constexpr std::array superblock_flags{
    FlagName{"ro", MS_RDONLY}, FlagName{"sync", MS_SYNCHRONOUS}, FlagName{"dirsync", MS_DIRSYNC},
    FlagName{"mand", MS_MANDLOCK}, FlagName{"lazytime", MS_LAZYTIME}};

template <typename Int>
Int number(std::string_view field, std::string_view line) {
  auto value = text::to_int<Int>(field);
  if (!value)
    throw Error("read mountinfo", "line \"" + std::string(line) + "\"")
        .because("expected a number, found \"" + std::string(field) + "\"");
  return *value;
}

template <typename Table>
uint64_t flag_of(std::string_view word, const Table& table) {
  for (const auto& entry : table)
    if (word == entry.name) return entry.flag;
  return 0;
}

// The superblock's options begin with ro or rw and the flags that every file
// system has; what is left is the file system's own.
void superblock_options(std::string_view options, Mount& mount) {
  for (auto rest = options; !options.empty(); options = rest) {
    auto word = text::next(rest, ',');
    uint64_t flag = flag_of(word, superblock_flags);
    if (!flag && word != "rw") break;
    mount.sb_flags |= flag;
  }
  mount.sb_options = text::unescape(options);
}

Mount parse_line(std::string_view line) {
  auto rest = line;
  auto field = [&rest, line] {
    if (rest.empty())
      throw Error("read mountinfo", "line \"" + std::string(line) + "\"").because("too few fields");
    return text::next(rest, ' ');
  };
  Mount mount;
  mount.id = number<int>(field(), line);
  mount.parent = number<int>(field(), line);
  auto device = field();
  mount.major = number<unsigned>(text::next(device, ':'), line);
  mount.minor = number<unsigned>(device, line);
  mount.root = text::unescape(field());
  mount.mountpoint = text::unescape(field());
  if (!mount.mountpoint.starts_with('/'))
    throw Error("read mountinfo", "line \"" + std::string(line) + "\"")
        .because("expected a mountpoint, found \"" + mount.mountpoint + "\"");
  for (auto options = field(); !options.empty();) {
    auto word = text::next(options, ',');
    mount.flags |= flag_of(word, mount_flags);
    if (word == "idmapped") mount.idmapped = true;
  }
  for (auto optional = field(); optional != "-"; optional = field()) {
    auto name = text::next(optional, ':');
    if (name == "shared") mount.shared = number<int>(optional, line);
    if (name == "master") mount.master = number<int>(optional, line);
    if (name == "unbindable") mount.unbindable = true;
  }
  mount.fstype = text::unescape(field());
  mount.source = text::unescape(field());
  superblock_options(field(), mount);
  return mount;
}

// Parents before children, otherwise the kernel's order (which is by age, so a
// moved mount can stand before its new parent).
std::vector<Mount> parents_first(std::vector<Mount> mounts) {
  std::unordered_map<int, size_t> index;
  for (size_t i = 0; i < mounts.size(); ++i)
    if (!index.emplace(mounts[i].id, i).second)
      throw Error("read mountinfo", "")
          .because("mount id " + std::to_string(mounts[i].id) + " appears twice");
  std::vector<Mount> sorted;
  sorted.reserve(mounts.size());
  enum class State : uint8_t { waiting, visiting, done };
  std::vector<State> state(mounts.size(), State::waiting);
  std::vector<size_t> chain;
  for (size_t i = 0; i < mounts.size(); ++i) {
    for (size_t at = i; state[at] != State::done;) {
      if (state[at] == State::visiting)
        throw Error("read mountinfo", "")
            .because("mount " + std::to_string(mounts[at].id) + " is its own ancestor");
      state[at] = State::visiting;
      chain.push_back(at);
      auto parent = index.find(mounts[at].parent);
      if (parent == index.end() || parent->second == at) break;
      at = parent->second;
    }
    for (; !chain.empty(); chain.pop_back()) {
      state[chain.back()] = State::done;
      sorted.push_back(std::move(mounts[chain.back()]));
    }
  }
  return sorted;
}

Mount from_statmount(kernel::MountStat&& stat) {
  Mount mount;
  mount.id = static_cast<int>(stat.old_id);
  mount.parent = static_cast<int>(stat.old_parent);
  mount.unique_id = stat.id;
  mount.major = stat.major;
  mount.minor = stat.minor;
  mount.root = std::move(stat.root);
  mount.mountpoint = std::move(stat.point);
  mount.sb_flags = stat.sb_flags;
  // MOUNT_ATTR_*: the first four bits are those of MS_, relatime is the
  // absence of both others.
  mount.flags = stat.attributes & 0xf;
  uint64_t atime = stat.attributes & 0x70;
  if (atime == 0) mount.flags |= MS_RELATIME;
  if (atime == 0x10) mount.flags |= MS_NOATIME;
  if (stat.attributes & 0x80) mount.flags |= MS_NODIRATIME;
  if (stat.attributes & 0x200000) mount.flags |= 256;  // MS_NOSYMFOLLOW
  mount.idmapped = stat.attributes & 0x100000;
  if (stat.propagation & MS_SHARED) mount.shared = static_cast<int>(stat.peer_group);
  if (stat.propagation & MS_SLAVE) mount.master = static_cast<int>(stat.master);
  mount.unbindable = stat.propagation & MS_UNBINDABLE;
  mount.fstype = std::move(stat.type);
  if (!stat.subtype.empty()) mount.fstype += "." + stat.subtype;
  mount.source = std::move(stat.source);
  mount.sb_options = text::unescape(stat.options);
  return mount;
}

// statmount shows mountpoints as seen from the root of the namespace. They are
// those of the process only while its root directory is that root.
bool rooted_at(pid_t pid, const MountTable& table) {
  std::string path = "/proc/" + std::to_string(pid) + "/root";
  struct statx stat{};
  long result = kernel::call(SYS_statx, AT_FDCWD, path.c_str(),
                             AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, STATX_MNT_ID, &stat);
  if (result < 0 || !(stat.stx_attributes & STATX_ATTR_MOUNT_ROOT)) return false;
  const Mount* mount = table.find(static_cast<int>(stat.stx_mnt_id));
  return mount && mount->mountpoint == "/";
}

}  // namespace

MountTable MountTable::parse(std::string_view mountinfo) {
  std::vector<Mount> mounts;
  while (!mountinfo.empty()) {
    auto line = text::next(mountinfo, '\n');
    if (!line.empty()) mounts.push_back(parse_line(line));
  }
  MountTable table;
  table.mounts_ = parents_first(std::move(mounts));
  return table;
}

std::optional<MountTable> MountTable::read_by_statmount(pid_t pid) {
  uint64_t ns = 0;
  std::vector<uint64_t> ids;
  if (kernel::mount_namespace_id(pid, ns) < 0 || kernel::list_mounts(ns, ids) < 0)
    return std::nullopt;
  std::vector<char> buffer;
  std::vector<Mount> mounts;
  mounts.reserve(ids.size());
  // Absent strings and strings that an older kernel doesn't know look alike;
  // but a kernel that knows sources (6.13, options are older) shows at least one.
  constexpr uint64_t always = kernel::statmount_sb_basic | kernel::statmount_mnt_basic |
                              kernel::statmount_mnt_root | kernel::statmount_mnt_point |
                              kernel::statmount_fs_type;
  bool knows_sources = false;
  for (uint64_t id : ids) {
    kernel::MountStat stat;
    if (kernel::stat_mount(ns, id, buffer, stat) < 0 || (stat.mask & always) != always)
      return std::nullopt;
    knows_sources |= (stat.mask & kernel::statmount_sb_source) != 0;
    mounts.push_back(from_statmount(std::move(stat)));
  }
  if (!knows_sources) return std::nullopt;
  MountTable table;
  table.mounts_ = parents_first(std::move(mounts));
  if (!rooted_at(pid, table)) return std::nullopt;
  return table;
}

MountTable MountTable::read(pid_t pid) {
  if (auto table = read_by_statmount(pid)) return std::move(*table);
  return parse(kernel::read_file("/proc/" + std::to_string(pid) + "/mountinfo"));
}

const Mount* MountTable::find(int id) const {
  for (const auto& mount : mounts_)
    if (mount.id == id) return &mount;
  return nullptr;
}

const Mount& MountTable::root() const {
  for (const auto& mount : mounts_)
    if (mount.mountpoint == "/" && (mount.parent == mount.id || !find(mount.parent))) return mount;
  throw Error("find the root mount", "")
      .because("no mount in the table stands at /")
      .hint(
          "The process's root directory is not a mount (chroot?); containers made by "
          "pivot_root have one.");
}

const Mount* MountTable::at(std::string_view path) const {
  auto child = [this](int parent, std::string_view point) -> const Mount* {
    for (const auto& mount : mounts_)
      if (mount.parent == parent && mount.id != parent && mount.mountpoint == point) return &mount;
    return nullptr;
  };
  const Mount* current = &root();
  auto enter = [&](std::string_view point) {
    while (const Mount* next = child(current->id, point)) current = next;
  };
  enter("/");
  for (size_t end = 1; end < path.size();) {
    end = std::min(path.find('/', end), path.size());
    enter(path.substr(0, end));
    ++end;
  }
  return current;
}

MountTable MountTable::below(std::string_view path) const {
  MountTable table;
  const Mount* top = at(path);
  if (top->mountpoint != path) return table;
  std::unordered_set<int> inside;
  for (const auto& mount : mounts_) {
    if (mount.id != top->id && !inside.contains(mount.parent)) continue;
    inside.insert(mount.id);
    table.mounts_.push_back(mount);
    auto& point = table.mounts_.back().mountpoint;
    if (path != "/") point.erase(0, path.size());
    if (point.empty()) point = "/";
  }
  return table;
}

}  // namespace stasis::mountmap
