#include "mountmap/mount_keys.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/text.h"
#include "mountmap/paths.h"
#include "oci/config.h"

namespace stasis::mountmap {

namespace {

using Device = std::pair<unsigned, unsigned>;
Device device(const Mount& mount) { return {mount.major, mount.minor}; }

std::string describe(const Mount& mount) {
  return fmt::format("mount {} ({})", mount.mountpoint, mount.fstype);
}

class Keyer {
 public:
  explicit Keyer(const KeyInput& input) : input_(input), table_(input.container) {
    for (const auto& mount : input.host.mounts()) host_devices_.insert(device(mount));
  }

  KeyedMounts run() {
    for (const auto& path : input_.request.skip) skip(path);
    for (const auto& key : input_.request.keys) apply(key);
    for (const auto& key : input_.request.devices) apply(key);
    for (const auto& mount : table_.mounts())
      if (is_free(mount)) classify(mount);
    return std::move(result_);
  }

 private:
  bool is_root(const Mount& mount) const { return mount.id == table_.root().id; }
  bool is_free(const Mount& mount) const {
    return !is_root(mount) && !result_.skipped.contains(mount.id) &&
           !result_.external.contains(mount.id) && !result_.devices.contains(mount.id);
  }
  bool on_host(const Mount& mount) const { return host_devices_.contains(device(mount)); }
  void find(Severity severity, const Mount& mount, std::string what, std::string remedy) {
    result_.findings.push_back({severity, describe(mount), std::move(what), std::move(remedy)});
  }
  void unused(const std::string& key, std::string why) {
    result_.unused.push_back({key, std::move(why)});
  }

  // A part of what the container's root or a file system of its own shows:
  // bound inside of the container, whatever the host has.
  bool is_internal(const Mount& mount) const {
    const Mount& root = table_.root();
    if (device(root) == device(mount) && root.root != "/" && inside(mount.root, root.root))
      return true;
    return !on_host(mount) && mount.root != "/" &&
           std::any_of(table_.mounts().begin(), table_.mounts().end(), [&](const Mount& other) {
             return device(other) == device(mount) && other.root == "/";
           });
  }

  // A whole file system of a kind that is a new one at every mount, and that
  // the host doesn't have: nobody can have bound that from the host.
  bool is_new_inside(const Mount& mount) const {
    constexpr std::array kinds{"tmpfs", "proc", "devpts", "ramfs"};
    return mount.root == "/" && !on_host(mount) &&
           std::find(kinds.begin(), kinds.end(), mount.fstype) != kinds.end();
  }

  std::vector<const Mount*> at(const std::string& path) const {
    std::vector<const Mount*> found;
    for (const auto& mount : table_.mounts())
      if (mount.mountpoint == path && !is_root(mount)) found.push_back(&mount);
    return found;
  }

  std::string nearby(const std::string& path) const {
    std::vector<std::string> points;
    for (const auto& mount : table_.mounts())
      if (!is_root(mount)) points.push_back(mount.mountpoint);
    return text::did_you_mean(path, points);
  }

  // --- what was named ---

  void skip(const std::string& path) {
    auto found = at(oci::clean_path(path));
    if (found.empty()) unused(path, "no mount to skip stands there" + nearby(path));
    for (const Mount* mount : found) result_.skipped.insert(mount->id);
    // Parents come first in the table.
    for (const auto& mount : table_.mounts())
      if (result_.skipped.contains(mount.parent) && !is_root(mount))
        result_.skipped.insert(mount.id);
  }

  // The mount that a key for this path means, the next one each time.
  const Mount* choose(const std::string& path) const {
    const Mount* chosen = nullptr;
    for (const Mount* mount : at(path)) {
      if (!is_free(*mount) || is_new_inside(*mount)) continue;
      if (!chosen || (is_internal(*chosen) && !is_internal(*mount))) chosen = mount;
    }
    return chosen;
  }

  const Mount* choose_resolved(const std::string& path) const {
    std::string point = oci::clean_path(path);
    const Mount* mount = choose(point);
    if (mount || !input_.resolve || !at(point).empty()) return mount;
    point = input_.resolve(point);
    return point.empty() ? nullptr : choose(point);
  }

  void apply(const MountKey& key) {
    for (size_t cut = 0;;) {
      // All of the value for the path, up to the glue's next place.
      std::string path = cut == 0 ? key.path : key.path + key.glue + key.value.substr(0, cut - 1);
      if (const Mount* mount = choose_resolved(path)) {
        std::string value = cut == 0 ? key.value : key.value.substr(cut - 1 + key.glue.size());
        return take(*mount, std::move(value));
      }
      size_t next = key.glue.empty() ? key.value.npos : key.value.find(key.glue, cut);
      if (next == key.value.npos) break;
      cut = next + 1;
    }
    auto there = at(oci::clean_path(key.path));
    unused(key.path, there.empty() ? "no mount stands there" + nearby(key.path)
                                   : fmt::format("the {} there is the container's own",
                                                 there.back()->fstype));
  }

  void take(const Mount& mount, std::string value) {
    for (const auto& [id, taken] : result_.external) {
      const Mount& other = *table_.find(id);
      if (taken == value && (device(other) != device(mount) || other.root != mount.root))
        find(Severity::obstacle, mount,
             fmt::format("would have the same name as {}, \"{}\": a restore would bind one source "
                         "at both",
                         describe(other), value),
             "unmount one of them, or give them different names");
    }
    result_.external[mount.id] = std::move(value);
    std::string configured =
        input_.configured ? input_.configured(mount.mountpoint) : std::string();
    auto places = host_places(input_.host, mount.major, mount.minor, standing_root(mount));
    const HostPlace* place = best(mount, places);
    // Otherwise only its restore will tell from where it comes.
    if (!configured.empty())
      remember(mount, configured, place ? input_.look(place->path) : std::nullopt);
    else if (place)
      remember(mount, place->path, {});
  }

  void apply(const DeviceKey& key) {
    bool any = false;
    for (const auto& mount : table_.mounts()) {
      if (device(mount) != Device{key.major, key.minor} || mount.root != "/" || !is_free(mount))
        continue;
      result_.devices[mount.id] = key.name;
      any = true;
    }
    if (any) return;
    std::string mounted;
    for (const auto& mount : table_.mounts())
      if (mount.major != 0 && is_free(mount))
        mounted += fmt::format("{}{}/{} at {}", mounted.empty() ? ": there are " : ", ",
                               mount.major, mount.minor, mount.mountpoint);
    unused(fmt::format("dev[{}/{}]", key.major, key.minor),
           "no mount shows the whole of that device" + mounted);
  }

  // --- what wasn't named ---

  void classify(const Mount& mount) {
    if (!on_host(mount) || is_internal(mount)) return;
    if (input_.request.automatic) return find_on_host(mount);
    // Legal, and what CRIU does; but two file systems from then on.
    if (mount.fstype == "tmpfs" && mount.root == "/")
      find(Severity::warning, mount, "is mounted on the host, too, and comes back as a copy",
           fmt::format("to keep it the host's: --external mnt[{}]:NAME", mount.mountpoint));
  }

  bool has_group(int id) const {
    const auto& mounts = input_.host.mounts();
    return id != 0 && std::any_of(mounts.begin(), mounts.end(),
                                  [id](const Mount& mount) { return mount.shared == id; });
  }

  // Uncovered, and the very peer or master where there is one.
  static const HostPlace* best(const Mount& mount, const std::vector<HostPlace>& places) {
    const HostPlace* best = nullptr;
    auto related = [&](const HostPlace& place) {
      return place.mount->shared != 0 &&
             (place.mount->shared == mount.shared || place.mount->shared == mount.master);
    };
    for (const auto& place : places)
      if (place.visible && (!best || (!related(*best) && related(place)))) best = &place;
    return best;
  }

  void find_on_host(const Mount& mount) {
    auto places = host_places(input_.host, mount.major, mount.minor, standing_root(mount));
    if (places.empty())
      return find(Severity::obstacle, mount,
                  fmt::format("shows {} of a file system of the host, which is mounted there, but "
                              "that part of it nowhere",
                              standing_root(mount)),
                  fmt::format("name its source: --external mnt[{}]:NAME, and at the restore "
                              "mnt[NAME]:PATH",
                              mount.mountpoint));
    const HostPlace* place = best(mount, places);
    const std::string& path = place ? place->path : places.front().path;
    if (!may_be_related(mount, path)) return;
    result_.external[mount.id] = path;
    result_.automatic.insert(mount.id);
    if (place) return remember(mount, path, {});
    // Other mounts cover it on the host: known by its superblock alone, as long
    // as that lives. What the path leads to is another one.
    find(Severity::warning, mount,
         fmt::format("is the host's {}, where now another mount ({}) lies on top", path,
                     input_.host.at(path)->fstype),
         "it can be restored as long as this host runs");
    note(mount, path, std::nullopt);
  }

  bool may_be_related(const Mount& mount, const std::string& path) {
    bool shares = !input_.request.sharing && has_group(mount.shared);
    bool receives = !input_.request.masters && has_group(mount.master);
    if (!shares && !receives) return true;
    std::string letters = std::string(shares || input_.request.sharing ? "s" : "") +
                          (receives || input_.request.masters ? "m" : "");
    find(Severity::obstacle, mount,
         fmt::format("{} the host's {}, which wasn't allowed",
                     shares ? "shares its mounts with" : "receives mounts from", path),
         fmt::format("allow it: --external mnt[]:{}, or name it: --external mnt[{}]:NAME", letters,
                     mount.mountpoint));
    return false;
  }

  void note(const Mount& mount, const std::string& path, std::optional<FileIdentity> file) {
    result_.sources[mount.id] = {.path = path,
                                 .major = mount.major,
                                 .minor = mount.minor,
                                 .root = standing_root(mount),
                                 .fstype = mount.fstype,
                                 .file = file.value_or(FileIdentity{})};
  }

  // `path` is where a restore will look; `shown` what the container sees, where
  // that has another path by now.
  void remember(const Mount& mount, const std::string& path, std::optional<FileIdentity> shown) {
    auto now = input_.look(path);
    note(mount, path, now);
    if (!now)
      find(Severity::obstacle, mount,
           fmt::format("shows the host's {}, which was deleted since", path),
           "put it back (a restore has nothing to bind there), or unmount it in the container");
    else if (shown && !shown->same_file_system(*now))
      find(Severity::warning, mount,
           fmt::format("isn't what the host's {} shows now: another file system is there", path),
           "a restore binds what is there then: unmount it, or name another source");
    else if (is_deleted(mount) || (shown && !shown->same_file(*now)))
      find(Severity::warning, mount,
           fmt::format("shows a file that was replaced on the host since: {}", path),
           "a restore binds the new one");
  }

  const KeyInput& input_;
  const MountTable& table_;
  std::set<Device> host_devices_;
  KeyedMounts result_;
};

}  // namespace

KeyedMounts apply_keys(const KeyInput& input) { return Keyer(input).run(); }

}  // namespace stasis::mountmap
