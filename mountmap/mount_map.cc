#include "mountmap/mount_map.h"

#include <fmt/core.h>
#include <sys/mount.h>

#include <algorithm>
#include <array>
#include <set>
#include <tuple>
#include <unordered_map>

#include "mountmap/paths.h"

namespace stasis::mountmap {

namespace {

// File systems that have one superblock a namespace or a machine: mounting the
// type again gives the same one, so a fresh mount is never the host's.
constexpr std::array one_superblock{"sysfs",   "devtmpfs", "mqueue", "cgroup2", "securityfs",
                                    "debugfs", "tracefs",  "pstore", "fusectl", "binfmt_misc"};
// And those of which every mount is a file system of its own.
constexpr std::array fresh_superblock{"proc", "tmpfs", "devpts", "cgroup"};

// Every container has these, named in config.json or not.
constexpr std::array default_devices{"/dev/null", "/dev/zero",   "/dev/full",
                                     "/dev/tty",  "/dev/random", "/dev/urandom"};

template <typename List>
bool contains(const List& list, std::string_view wanted) {
  return std::find(list.begin(), list.end(), wanted) != list.end();
}

using Device = std::pair<unsigned, unsigned>;
Device device(const Mount& mount) { return {mount.major, mount.minor}; }

bool device_node(const Mount& mount) { return mount.fstype == "devtmpfs" && mount.root != "/"; }

std::string_view base_name(std::string_view path) { return path.substr(path.rfind('/') + 1); }

class Mapper {
 public:
  explicit Mapper(const MapInput& input) : input_(input), table_(input.container) {
    for (const auto& mount : input.host.mounts()) host_devices_.insert(device(mount));
    for (const auto& mount : table_.mounts()) rows_.emplace_back().mount = mount;
  }

  MountMap run() {
    match_config();
    // Whole file systems first: binds of parts of them can come before them.
    for (auto& row : rows_) classify_whole(row);
    for (auto& row : rows_)
      if (!done_.contains(row.mount.id)) classify_part(row);
    warn_of_shared_keys();
    explain_stacks();
    return {table_, std::move(rows_), std::move(findings_)};
  }

 private:
  bool on_host(const Mount& mount) const { return host_devices_.contains(device(mount)); }

  void own(MapRow& row, std::string reason) {
    row.kind = MountClass::own;
    row.reason = std::move(reason);
    done_.insert(row.mount.id);
  }

  void external(MapRow& row, ExternalKind kind, std::string source, std::string reason) {
    row.kind = MountClass::external;
    row.external = kind;
    row.key = row.mount.mountpoint;
    row.source = std::move(source);
    row.reason = std::move(reason);
    done_.insert(row.mount.id);
  }

  void find(Severity severity, const std::string& point, std::string what, std::string remedy,
            int mount = 0) {
    findings_.push_back({severity, "mount " + point, std::move(what), std::move(remedy), mount});
  }

  // Where the host shows the root of this mount, uncovered.
  std::string host_path(const Mount& mount) const {
    for (auto& place : host_places(input_.host, mount.major, mount.minor, standing_root(mount)))
      if (place.visible) return place.path;
    return {};
  }

  // --- what config.json says ---

  // Is `mount` what binding the host's path `source` gives?
  bool is_bind_of(const Mount& mount, const std::string& source) const {
    const Mount* host = input_.host.at(source);
    return device(*host) == device(mount) &&
           standing_root(mount) == rebase(source, host->mountpoint, host->root);
  }

  bool plausible(const oci::ConfigMount& wanted, const Mount& mount) const {
    if (wanted.bind())
      return on_host(mount) || mount.root != "/" || !contains(fresh_superblock, mount.fstype);
    if (wanted.type == "cgroup")
      return mount.fstype == "tmpfs" || mount.fstype == "cgroup" || mount.fstype == "cgroup2";
    return mount.fstype == wanted.type && mount.root == "/";
  }

  MapRow* match(const oci::ConfigMount& wanted, const std::string& point) {
    MapRow* first = nullptr;
    for (auto& row : rows_) {
      if (row.mount.mountpoint != point || from_config_.contains(row.mount.id) ||
          row.mount.id == table_.root().id || !plausible(wanted, row.mount))
        continue;
      if (wanted.bind() && is_bind_of(row.mount, wanted.source)) return &row;
      if (!first) first = &row;
    }
    return first;
  }

  void match_config() {
    if (!input_.config) return;
    for (const auto& wanted : input_.config->mounts) {
      std::string point = wanted.destination;
      MapRow* row = match(wanted, point);
      if (!row && input_.resolve) {
        point = input_.resolve(point);
        if (!point.empty()) row = match(wanted, point);
      }
      if (row) {
        from_config_[row->mount.id] = &wanted;
        row->configured = true;
      } else if (wanted.bind()) {
        find(
            Severity::warning, wanted.destination,
            fmt::format("config.json binds {} here, but no such mount is there now", wanted.source),
            "nothing to do if the container took it away by itself");
      }
    }
  }

  const oci::ConfigMount* configured(const MapRow& row) const {
    auto entry = from_config_.find(row.mount.id);
    return entry == from_config_.end() ? nullptr : entry->second;
  }

  // --- classification ---

  // The /dev/null that a runtime binds over a masked file. Which one it is,
  // the host's or the container's, differs between runtimes.
  bool masked_file(const Mount& mount) const {
    if (base_name(mount.root) != "null" || (mount.fstype != "tmpfs" && mount.fstype != "devtmpfs"))
      return false;
    if (input_.config) return contains(input_.config->masked_paths, mount.mountpoint);
    return !inside(mount.mountpoint, "/dev");
  }

  void classify_whole(MapRow& row) {
    const Mount& mount = row.mount;
    const oci::ConfigMount* config = configured(row);
    if (mount.id == table_.root().id) {
      row.kind = MountClass::root;
      row.source = host_path(mount);
      row.reason = "the container's root file system";
      done_.insert(mount.id);
    } else if (config && config->bind()) {
      external(row, device_node(mount) ? ExternalKind::device : ExternalKind::directory,
               config->source, "config.json binds it from the host");
    } else if (masked_file(mount)) {
      external(row, ExternalKind::masked, "/dev/null", "masked: /dev/null stands over it");
      row.key = "/dev/null";  // what runc names on restore, one for all of them
    } else if (mount.fstype == "cgroup" || (mount.fstype == "cgroup2" && input_.cgroup_namespace)) {
      classify_cgroup(row);
    } else if (mount.root == "/") {
      classify_file_system(row, config);
    }
  }

  void classify_cgroup(MapRow& row) {
    if (input_.cgroup_namespace) {
      own(row, "cgroup hierarchy seen from the container's cgroup namespace: mounted anew");
      return;
    }
    external(row, ExternalKind::cgroup, host_path(row.mount),
             "cgroup v1 controller, no cgroup namespace: the host's own");
  }

  void classify_file_system(MapRow& row, const oci::ConfigMount* config) {
    const Mount& mount = row.mount;
    bool masked = input_.config && contains(input_.config->masked_paths, mount.mountpoint);
    if (mount.fstype == "tmpfs" && !on_host(mount)) {
      if (masked && (mount.flags & MS_RDONLY))
        own(row, "masked: an empty read-only tmpfs stands over it, made anew");
      else
        own(row, "tmpfs of the container: made anew, its content is in the image");
    } else if (contains(one_superblock, mount.fstype) ||
               (contains(fresh_superblock, mount.fstype) && (config || !on_host(mount)))) {
      own(row, mount.fstype + ": mounted anew");
    }
  }

  // A bind of part of what another mount of the container shows.
  const MapRow* provider(const Mount& mount) const {
    for (const auto& row : rows_)
      if (row.mount.id != mount.id && done_.contains(row.mount.id) &&
          row.external != ExternalKind::masked && device(row.mount) == device(mount) &&
          inside(mount.root, row.mount.root))
        return &row;
    return nullptr;
  }

  void classify_part(MapRow& row) {
    const Mount& mount = row.mount;
    if (const MapRow* from = provider(mount)) {
      own(row, fmt::format("bind of {} inside the container",
                           rebase(mount.root, from->mount.root, from->mount.mountpoint)));
    } else if (on_host(mount)) {
      const MapRow* over = row_of(mount.parent);
      if (over && over->kind == MountClass::external && configured(*over))
        external(row, ExternalKind::directory, host_path(mount),
                 fmt::format("came with the recursive bind {}", over->mount.mountpoint));
      else if (device_node(mount))
        external(row, ExternalKind::device, host_path(mount), "device node of the host");
      else
        external(row, ExternalKind::directory, host_path(mount),
                 "its file system is mounted on the host too");
      find_source_at_restore(row);
    } else {
      unknown(row);
    }
  }

  // In a restore a runtime names the sources that config.json names, no others.
  void find_source_at_restore(MapRow& row) {
    if (!input_.config) return;
    auto named = [&](const auto& device) { return device.path == row.source; };
    const auto& devices = input_.config->devices;
    if (contains(default_devices, row.source) ||
        std::any_of(devices.begin(), devices.end(), named)) {
      row.key = row.source;
      return;
    }
    find(Severity::obstacle, row.mount.mountpoint,
         fmt::format("comes from the host's {}, which config.json doesn't name: a restore by the "
                     "runtime would have no source for it",
                     row.source),
         fmt::format("add a bind mount with destination {} to config.json before the container is "
                     "created, or unmount it inside",
                     row.mount.mountpoint),
         row.mount.id);
  }

  void unknown(MapRow& row) {
    const Mount& mount = row.mount;
    if (mount.root != "/") {
      external(row, ExternalKind::directory, "",
               "a part of a file system that is mounted nowhere else any more");
      return;
    }
    // Whether that can be made anew is for the engine to say.
    own(row, fmt::format("file system ({}) that the container mounted itself", mount.fstype));
  }

  const MapRow* row_of(int id) const {
    for (const auto& row : rows_)
      if (row.mount.id == id) return &row;
    return nullptr;
  }

  // A key must lead to one place; only masks share theirs.
  void warn_of_shared_keys() {
    std::map<std::string, const MapRow*> keys;
    for (const auto& row : rows_) {
      if (row.kind != MountClass::external || row.external == ExternalKind::masked) continue;
      auto [first, added] = keys.emplace(row.key, &row);
      if (!added && std::tuple(device(first->second->mount), first->second->mount.root) !=
                        std::tuple(device(row.mount), row.mount.root))
        find(Severity::obstacle, row.mount.mountpoint,
             fmt::format("is external twice: {} and {} stand on the same mountpoint",
                         first->second->source, row.source),
             "unmount one of them, or give them different destinations in config.json",
             row.mount.id);
    }
  }

  // Which one a key by path means where several mounts are at one place.
  void explain_stacks() {
    std::map<std::string, std::vector<const MapRow*>> places;
    for (const auto& row : rows_) places[row.mount.mountpoint].push_back(&row);
    for (const auto& [point, stack] : places) {
      if (stack.size() < 2 || point == "/") continue;
      std::string layers;
      const MapRow* meant = nullptr;
      for (const MapRow* row : stack) {
        layers += fmt::format(
            "{}{} {} ({})", layers.empty() ? "" : ", then ", row->mount.id, row->mount.fstype,
            row->kind == MountClass::external ? "from " + row->source : "its own");
        if (!meant && row->kind == MountClass::external) meant = row;
      }
      find(Severity::note, point,
           fmt::format("is mounted {} times, from below: {}", stack.size(), layers),
           meant ? fmt::format("a key by this path means mount {}, the lowest of the host's",
                               meant->mount.id)
                 : "none of them is the host's: a key by this path means nothing");
    }
  }

  const MapInput& input_;
  const MountTable& table_;
  std::set<Device> host_devices_;
  std::vector<MapRow> rows_;
  std::vector<MapFinding> findings_;
  std::unordered_map<int, const oci::ConfigMount*> from_config_;  // by mount id
  std::set<int> done_;
};

}  // namespace

MountMap make_map(const MapInput& input) { return Mapper(input).run(); }

MountMap map_config(const oci::Config& config) {
  MountMap map;
  for (const auto& wanted : config.mounts) {
    MapRow& row = map.rows.emplace_back();
    row.mount.mountpoint = wanted.destination;
    row.mount.fstype = wanted.bind() ? "" : wanted.type;
    row.source = wanted.source;
    row.reason = wanted.type + ": mounted anew";
    if (wanted.bind()) {
      row.kind = MountClass::external;
      row.external = ExternalKind::directory;
      row.key = wanted.destination;
      row.reason = "config.json binds it from the host";
    }
  }
  return map;
}

std::map<int, std::string> MountMap::external_mounts() const {
  std::map<int, std::string> keys;
  for (const auto& row : rows)
    if (row.kind == MountClass::external) keys.emplace(row.mount.id, row.key);
  return keys;
}

std::set<int> MountMap::skipped_mounts() const {
  std::set<int> ids;
  for (const auto& row : rows)
    if (row.kind == MountClass::skipped) ids.insert(row.mount.id);
  return ids;
}

std::map<int, bool> MountMap::content_mounts() const {
  std::map<int, bool> ids;
  for (const auto& row : rows)
    if (row.kind == MountClass::own && row.action == Action::content)
      ids.emplace(row.mount.id, row.root.directory);
  return ids;
}

std::set<int> MountMap::recreated_mounts() const {
  std::set<int> ids;
  for (const auto& row : rows)
    if (row.kind == MountClass::own && row.action == Action::recreate) ids.insert(row.mount.id);
  return ids;
}

std::map<int, ProvidedMount> MountMap::provided_mounts() const {
  std::map<int, ProvidedMount> mounts;
  for (const auto& row : rows)
    if (!row.provided.provider.empty()) mounts.emplace(row.mount.id, row.provided);
  return mounts;
}

}  // namespace stasis::mountmap
