// Looking at the files that mounts show and at the host's paths they come
// from. Only before a freeze: a file system served by a frozen process would
// hang us (so nothing here asks a server for attributes either).
#include <fmt/core.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "kernel/fs.h"
#include "mountmap/mount_map.h"
#include "mountmap/policy.h"

#ifndef STATX_MNT_ID_UNIQUE
#define STATX_MNT_ID_UNIQUE 0x4000U  // Linux 6.8
#endif

namespace stasis::mountmap {

namespace {

constexpr int quiet = AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC;

struct Seen {
  FileIdentity identity;
  mode_t mode = 0;
  unsigned links = 1;
};

Seen seen_from(const struct statx& stat) {
  Seen seen;
  seen.mode = stat.stx_mode;
  if (stat.stx_mask & STATX_NLINK) seen.links = stat.stx_nlink;
  seen.identity.major = stat.stx_dev_major;
  seen.identity.minor = stat.stx_dev_minor;
  seen.identity.inode = stat.stx_ino;
  if (stat.stx_mask & STATX_BTIME)
    seen.identity.born_ns = stat.stx_btime.tv_sec * 1'000'000'000 + stat.stx_btime.tv_nsec;
  if (stat.stx_mask & STATX_MNT_ID_UNIQUE) seen.identity.mount = stat.stx_mnt_id;
  seen.identity.directory = S_ISDIR(stat.stx_mode);
  return seen;
}

std::optional<Seen> look(const std::string& path, int flags = 0) {
  struct statx stat{};
  long result = kernel::call(SYS_statx, AT_FDCWD, path.c_str(), quiet | flags,
                             STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID_UNIQUE, &stat);
  if (result < 0) return std::nullopt;
  return seen_from(stat);
}

ExternalKind kind_of(mode_t mode) {
  if (S_ISCHR(mode) || S_ISBLK(mode)) return ExternalKind::device;
  return S_ISDIR(mode) ? ExternalKind::directory : ExternalKind::file;
}

// The root of a mount, seen through the container. A mount that is covered by
// another is not reached by its path and stays unknown.
void look_at_root(MapRow& row, int root) {
  long fd = kernel::try_open_in(root, row.mount.mountpoint, O_PATH | O_NOFOLLOW,
                                RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
  if (fd < 0) return;
  UniqueFd here(static_cast<int>(fd));
  struct statx stat{};
  // One call gives one of the two kinds of mount id; the older one is in all tables.
  if (kernel::call(SYS_statx, here.get(), "", AT_EMPTY_PATH | quiet,
                   STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID, &stat) < 0 ||
      stat.stx_mnt_id != static_cast<uint64_t>(row.mount.id))
    return;
  Seen seen = seen_from(stat);
  row.root = seen.identity;
  row.root.mount = row.mount.unique_id;
  if (row.external == ExternalKind::directory) row.external = kind_of(seen.mode);
}

class Examiner {
 public:
  Examiner(MountMap& map, const SourceRecord* created) : map_(map), created_(created) {}

  void examine(MapRow& row) {
    row_ = &row;
    if (!row.remapped.empty()) return;  // where a restore binds it from is its host's matter
    if (row.source.empty()) {
      find(Severity::obstacle, "the host shows its source nowhere",
           "mount it on the host again, or unmount it inside the container");
      return;
    }
    auto now = look(row.source);
    if (!now) {
      find(Severity::obstacle, fmt::format("its source {} is gone", row.source),
           "put it back, since a restore has nothing to bind there, or take the data into the "
           "image (content in " +
               std::string(default_policy_path) + ")");
      return;
    }
    if (row.external == ExternalKind::masked || row.external == ExternalKind::cgroup) return;
    // As the kubelet's bind of a file whose ConfigMap it has renewed.
    if (now->links == 0) {
      find(Severity::obstacle,
           fmt::format("its source {} still shows a file that has been deleted, which nobody can "
                       "bind again",
                       row.source),
           "mount the source anew, or take the data into the image (content in " +
               std::string(default_policy_path) + ")");
      return;
    }
    // Not known yet where the mount is covered or isn't there.
    if (row.external == ExternalKind::directory && !row.root.directory)
      row.external = kind_of(now->mode);
    compare(now->identity);
    auto link = look(row.source, AT_SYMLINK_NOFOLLOW);
    if (link && S_ISLNK(link->mode)) {
      find(Severity::note,
           fmt::format("its source {} is a symbolic link to {}", row.source,
                       kernel::read_link(row.source)),
           "a restore follows it to wherever it leads then");
    }
  }

 private:
  void compare(const FileIdentity& now) {
    const FileIdentity* then = &row_->root;
    std::string since = "since the container bound it";
    if (created_) {
      auto record = created_->find(row_->key);
      if (record != created_->end()) {
        then = &record->second;
        since = "since the container was created";
        if (row_->root.known() && !row_->root.same_file(*then)) {
          find(Severity::warning, "is not what the container was created with",
               "a restore binds its source again; look whether that is wanted");
          then = &row_->root;
        }
      }
    }
    if (then->known() && then->directory != now.directory) {
      find(
          Severity::obstacle,
          fmt::format("its source {} was a {} and is a {} now", row_->source,
                      then->directory ? "directory" : "file", now.directory ? "directory" : "file"),
          "put back what was there: neither can be bound over the other");
    } else if (then->known() && !then->same_file_system(now)) {
      find(Severity::warning,
           fmt::format("its source {} is on another file system {}: one was mounted over it, or "
                       "unmounted",
                       row_->source, since),
           "the container still sees the old one; a restore binds what is there then");
    } else if (then->known() && !then->same_file(now)) {
      find(Severity::warning, fmt::format("its source {} was replaced {}", row_->source, since),
           "the container still sees the old one, a restore binds the new one");
    }
  }

  void find(Severity severity, std::string what, std::string remedy) {
    map_.findings.push_back({severity, "mount " + row_->mount.mountpoint, std::move(what),
                             std::move(remedy), row_->mount.id});
  }

  MountMap& map_;
  const SourceRecord* created_;
  MapRow* row_ = nullptr;
};

std::string descriptor_path(int fd) {
  return kernel::read_link("/proc/self/fd/" + std::to_string(fd));
}

// Where a container has pivoted already, `rootfs` is no path inside it.
UniqueFd open_root(pid_t pid, std::string& rootfs) {
  std::string root = "/proc/" + std::to_string(pid) + "/root";
  long fd =
      kernel::call(SYS_openat, AT_FDCWD, (root + rootfs).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) return UniqueFd(static_cast<int>(fd));
  rootfs = "/";
  return kernel::open(root, O_PATH | O_DIRECTORY);
}

std::string process_link(pid_t pid, const char* name) {
  return kernel::read_link("/proc/" + std::to_string(pid) + "/" + name);
}

}  // namespace

// By the mount's id, since the file there may have lost its name.
std::string resolve_inside(int root, const MountTable& table, const std::string& path) {
  long fd = kernel::try_open_in(root, path, O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
  if (fd < 0) return {};
  UniqueFd here(static_cast<int>(fd));
  struct statx stat{};
  if (kernel::call(SYS_statx, here.get(), "", AT_EMPTY_PATH | quiet, STATX_MNT_ID, &stat) < 0 ||
      !(stat.stx_attributes & STATX_ATTR_MOUNT_ROOT))
    return {};
  const Mount* mount = table.find(static_cast<int>(stat.stx_mnt_id));
  return mount ? mount->mountpoint : std::string();
}

void examine_config(MountMap& map) {
  Examiner examiner(map, nullptr);
  for (auto& row : map.rows) {
    if (row.kind != MountClass::external) continue;
    if (auto seen = look(row.source)) row.root = seen->identity;
    examiner.examine(row);
  }
}

std::optional<FileIdentity> identify(const std::string& path) {
  auto seen = look(path);
  if (!seen) return std::nullopt;
  return seen->identity;
}

void examine_sources(MountMap& map, int root, const SourceRecord* created) {
  Examiner examiner(map, created);
  for (auto& row : map.rows) {
    bool external = row.kind == MountClass::external;
    if (external || row.action == Action::content || row.action == Action::recreate)
      look_at_root(row, root);
    if (external) examiner.examine(row);
  }
}

MountMap map_process(pid_t pid, const oci::Config* config, const SourceRecord* created,
                     std::string rootfs, const PolicyView* policy) {
  auto container = MountTable::read(pid);
  auto host = MountTable::read(getpid());
  UniqueFd root = open_root(pid, rootfs);
  // Through the descriptor: the configured path may hold symbolic links.
  if (rootfs != "/") container = container.below(descriptor_path(root.get()));
  if (container.mounts().empty()) return {};
  MapInput input{.container = container,
                 .host = host,
                 .config = config,
                 .cgroup_namespace =
                     config ? config->has_namespace("cgroup")
                            : process_link(pid, "ns/cgroup") != process_link(getpid(), "ns/cgroup"),
                 .resolve = [&](const std::string& path) {
                   return resolve_inside(root.get(), container, path);
                 }};
  MountMap map = make_map(input);
  if (policy) apply_policy(map, policy->policy, policy->subject);
  examine_sources(map, root.get(), created);
  if (policy) examine_content(map, root.get(), policy->policy);
  return map;
}

}  // namespace stasis::mountmap
