#include "engine/mounts/sources.h"

#include <fmt/core.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/text.h"
#include "engine/image/image.h"
#include "engine/mounts/fs_types.h"
#include "engine/mounts/id_maps.h"
#include "engine/mounts/locked.h"
#include "engine/mounts/mountpoint.h"
#include "engine/mounts/view.h"
#include "kernel/fs.h"
#include "kernel/mount_api.h"
#include "kernel/proc_misc.h"

namespace stasis::engine::mounts {

namespace {

const char* kind(bool directory) { return directory ? "a directory" : "a file"; }

Error refusal(const Node& node) {
  return Error("restore the external mount", node.entry->mountpoint());
}

// How to name another source.
std::string naming(const Node& node) {
  const auto& key = node.key == found_automatically ? node.entry->mountpoint() : node.key;
  return "--external mnt[" + key + "]:SOURCE";
}

// A host's path, symbolic links followed as they were when the container was
// created. Those of /proc, which lead out of any root, only where they were
// asked for.
long open_source(const std::string& path) {
  uint64_t resolve = path.starts_with("/proc/") ? 0 : RESOLVE_NO_MAGICLINKS;
  return kernel::try_open_in(AT_FDCWD, path, O_PATH, resolve);
}

}  // namespace

void write_sources(const DumpPlan& plan, const std::vector<image::MountIdMap>& id_maps,
                   image::ImageWriter& writer) {
  image::StasisEntry entry;
  entry.set_boot_id(kernel::boot_id());
  for (const auto& [id, source] : plan.host_sources) {
    if (plan.skipped_mounts.contains(id)) continue;
    image::HostSourceEntry& out = *entry.add_sources();
    out.set_mnt_id(static_cast<uint32_t>(id));
    out.set_path(source.path);
    out.set_major(source.major);
    out.set_minor(source.minor);
    out.set_root(source.root);
    out.set_fstype(source.fstype);
    if (!source.file.known()) continue;
    out.set_inode(source.file.inode);
    out.set_born_ns(source.file.born_ns);
    out.set_directory(source.file.directory);
    out.set_mount(source.file.mount);
  }
  for (const auto& map : id_maps) *entry.add_id_maps() = map;
  for (const auto& [id, provided] : plan.provided_mounts) {
    const mountmap::Mount* mount = plan.mounts.find(id);
    if (!mount || plan.skipped_mounts.contains(id)) continue;
    image::ProvidedMountEntry& out = *entry.add_provided();
    out.set_mnt_id(static_cast<uint32_t>(id));
    out.set_root_dev(mount->major << 20 | mount->minor);
    out.set_provider(provided.provider);
    out.set_description(provided.description);
  }
  for (uint32_t id : find_locked(plan)) entry.add_locked_mounts(id);
  writer.append("stasis", entry);
}

Sources::Sources(const image::Checkpoint& checkpoint, const RestorePlan& plan, const Tree& tree,
                 Log& log)
    : checkpoint_(checkpoint),
      plan_(plan),
      tree_(tree),
      log_(log),
      same_boot_(checkpoint.more && checkpoint.more->boot_id() == kernel::boot_id()) {}

const mountmap::MountTable& Sources::host() {
  if (!host_) host_ = mountmap::MountTable::read(getpid());
  return *host_;
}

// Another engine may have written its images over ours: it has to be of this mount.
const image::HostSourceEntry* Sources::record_of(const image::MntEntry& entry) const {
  if (!checkpoint_.more) return nullptr;
  for (const auto& record : checkpoint_.more->sources())
    if (record.mnt_id() == entry.mnt_id() && record.root() == entry.root() &&
        (record.major() << 20 | record.minor()) == entry.root_dev())
      return &record;
  return nullptr;
}

std::vector<UniqueFd> Sources::hold_all() {
  std::vector<UniqueFd> sources(tree_.nodes.size());
  for (int i : tree_.order) {
    const Node& node = tree_.nodes[i];
    if (node.how == How::root)
      sources[i] = kernel::open_tree(AT_FDCWD, plan_.root, OPEN_TREE_CLONE);
    if (node.how == How::external) sources[i] = hold(node);
    if (node.parent >= 0) check_target(i, sources);
  }
  check_keys();
  return sources;
}

UniqueFd Sources::hold_provided(const Node& node) const {
  const image::ProvidedMountEntry* ours = nullptr;
  if (checkpoint_.more)
    for (const auto& provided : checkpoint_.more->provided())
      if (provided.mnt_id() == node.entry->mnt_id() &&
          provided.root_dev() == node.entry->root_dev())
        ours = &provided;
  if (!ours || !plan_.make_provided)
    throw refusal(node)
        .because("a plugin is to make it, and the image doesn't tell which")
        .hint("Restore it with what made the checkpoint.");
  return plan_.make_provided({ours->provider(), ours->description()});
}

UniqueFd Sources::hold(const Node& node) {
  if (node.entry->with_plugin()) return hold_provided(node);
  bool automatic = node.key == found_automatically;
  const auto& key = automatic ? node.entry->mountpoint() : node.key;
  auto given = plan_.external_mounts.find(key);
  std::string source = given == plan_.external_mounts.end() ? "" : given->second;
  if (plan_.choose_source)
    source = plan_.choose_source({.key = key,
                                  .mountpoint = node.entry->mountpoint(),
                                  .type = type_name(*node.entry),
                                  .source = source});
  if (!source.empty()) return hold_path(node, source);
  if (automatic && plan_.automatic_mounts) return hold_automatic(node);
  if (automatic)
    throw refusal(node)
        .because("it was found automatically at the dump, as the host's " + node.entry->source())
        .hint("Allow it to be bound from there: --external mnt[]; or name it: " + naming(node) +
              ".");
  std::vector<std::string> known;
  known.reserve(plan_.external_mounts.size());
  for (const auto& [name, path] : plan_.external_mounts) known.push_back(name);
  throw refusal(node)
      .because(fmt::format("no source is given for its key \"{}\"{}", key,
                           text::did_you_mean(key, known)))
      .hint("Name one: " + naming(node) + ".");
}

UniqueFd Sources::hold_path(const Node& node, const std::string& path) {
  long opened = open_source(path);
  if (opened < 0)
    throw refusal(node)
        .with_errno(static_cast<int>(-opened))
        .because("its source " + path + (opened == -ENOENT ? " is missing" : " can't be opened"))
        .hint("Put it back, or name another one: " + naming(node) + ".");
  UniqueFd fd(static_cast<int>(opened));
  const auto* record = record_of(*node.entry);
  if (record && record->has_directory() && record->directory() != is_directory(fd.get()))
    throw refusal(node)
        .because(fmt::format("its source {} is {}, and was {} at the dump", path,
                             kind(is_directory(fd.get())), kind(record->directory())))
        .hint("Put back what was there, or name another one: " + naming(node) + ".");
  if (record && record->path() == path) tell_other_file_system(node, *record, fd.get());
  UniqueFd mount = kernel::open_tree(fd.get(), "", OPEN_TREE_CLONE);
  if (checkpoint_.more)
    for (const auto& map : checkpoint_.more->id_maps())
      if (map.mnt_id() == node.entry->mnt_id())
        restore_id_map(map, mount.get(), fd.get(), describe(*node.entry));
  return mount;
}

// Who restores names the source and may well mean another one. The same path on another file
// system, though, is mostly one that isn't mounted now, or has been mounted over.
void Sources::tell_other_file_system(const Node& node, const image::HostSourceEntry& record,
                                     int source) {
  if (record.fstype().empty()) return;
  uint64_t id = kernel::stat_fd(source, STATX_MNT_ID).stx_mnt_id;
  const mountmap::Mount* now = host().find(static_cast<int>(id));
  if (!now) return;
  bool same_number = now->major == record.major() && now->minor == record.minor();
  if (same_boot_ ? same_number : now->fstype == record.fstype()) return;  // numbers: for one boot
  log_.warn(
      "{}: its source {} was on a file system of type {} ({}:{}) at the dump and is on one of "
      "type {} ({}:{}) now: is what was there mounted?",
      node.entry->mountpoint(), record.path(), record.fstype(), record.major(), record.minor(),
      now->fstype, now->major, now->minor);
}

// The host's path of then may show another file system by now.
UniqueFd Sources::hold_automatic(const Node& node) {
  const auto* record = record_of(*node.entry);
  const std::string& then = node.entry->source();
  if (!record) return hold_path(node, then);
  std::string remedy = "Mount there what was there, or name another source: " + naming(node) + ".";
  if (!same_boot_) {
    // Numbers mean nothing any more; its type is what can be compared.
    const auto& now = host().at(then)->fstype;
    if (now == record->fstype() && record->has_inode()) return hold_path(node, then);
    throw refusal(node)
        .because(record->has_inode()
                     ? fmt::format("the host's {} was of type {} and is {} now", then,
                                   record->fstype(), now)
                     : fmt::format("it was covered by another mount on its host, {} "
                                   "isn't it",
                                   then))
        .hint(remedy);
  }
  auto places = mountmap::host_places(host(), record->major(), record->minor(), record->root());
  const mountmap::HostPlace *found = nullptr, *covered = nullptr;
  for (const auto& place : places) {
    if (place.visible && (!found || place.path == then)) found = &place;
    if (!place.visible && place.mount->root == record->root()) covered = &place;
  }
  if (!found && covered) return uncover(node, *record, *covered);
  if (!found)
    throw refusal(node)
        .because(fmt::format("the file system that it showed, the host's {}, {}", then,
                             places.empty() ? "isn't mounted any more" : "is covered by another"))
        .hint(remedy);
  if (record->has_inode()) check_same(node, *record, found->path);
  if (found->path != then)
    log_.warn("{}: its source was at {}, where now something else is; it is at {} as well",
              node.entry->mountpoint(), then, found->path);
  return hold_path(node, found->path);
}

// Through a copy of our namespace, from which what covers it is taken away.
UniqueFd Sources::uncover(const Node& node, const image::HostSourceEntry& record,
                          const mountmap::HostPlace& place) {
  log_.warn("{}: its source, the host's {}, is covered by another mount; it is taken from below",
            node.entry->mountpoint(), place.path);
  auto views = open_views({getpid(), &host()}, {host().find(place.mount->id)});
  auto now = kernel::stat_fd(views[0].get());
  if (record.has_inode() && now.stx_ino != record.inode())
    throw refusal(node)
        .because("the host's " + place.path + " isn't what was there at the dump")
        .hint("Name its source: " + naming(node) + ".");
  return std::move(views[0]);
}

// Device numbers are used again, also within one boot.
void Sources::check_same(const Node& node, const image::HostSourceEntry& record,
                         const std::string& path) const {
  auto now = mountmap::identify(path);
  if (!now) return;  // told better when it is opened
  bool same_file = now->inode == record.inode() && now->born_ns == record.born_ns();
  bool same_mount = record.mount() == 0 || now->mount == 0 || now->mount == record.mount();
  if (same_file || (same_mount && record.root() != "/")) return;
  throw refusal(node)
      .because(fmt::format("the host's {} isn't the file system that was there at the dump, though "
                           "of the same number ({}:{})",
                           path, record.major(), record.minor()))
      .hint("Mount there what was there, or name another source: " + naming(node) + ".");
}

// What is known of a mountpoint before anything is mounted: whether it is there
// in what comes from the host, and of what kind.
void Sources::check_target(int i, const std::vector<UniqueFd>& sources) const {
  const Node& node = tree_.nodes[i];
  const UniqueFd& parent = sources[node.parent];
  // Of what a provider makes, the whole is held, and a part shown.
  if (!parent.valid() || !tree_.nodes[node.parent].subpath.empty()) return;
  UniqueFd target = open_mountpoint(tree_, i, parent.get());
  if (!sources[i].valid() || !node.subpath.empty()) return;
  bool onto = is_directory(target.valid() ? target.get() : parent.get());
  if (is_directory(sources[i].get()) != onto)
    throw refusal(node)
        .because(fmt::format("its source is {}, but its mountpoint {}", kind(!onto), kind(onto)))
        .hint("Give the source that the container was created with: " + naming(node) + ".");
}

// Who typed a name that the image doesn't have meant another one.
void Sources::check_keys() const {
  std::vector<std::string> names;
  for (const auto& node : tree_.nodes) {
    const auto& entry = *node.entry;
    if (entry.ext_key() == found_automatically)
      names.push_back(entry.mountpoint());
    else if (entry.has_ext_key() || entry.ext_mount())
      names.push_back(entry.has_ext_key() ? entry.ext_key() : entry.root());
  }
  for (const auto& [key, path] : plan_.external_mounts) {
    if (std::find(names.begin(), names.end(), key) != names.end()) continue;
    if (plan_.all_keys_used)
      throw Error("bind " + path, "")
          .because(fmt::format("the image has no external mount with the name \"{}\"{}", key,
                               text::did_you_mean(key, names)))
          .hint("Leave it out, or use the name that was given at the dump.");
    log_.info("No external mount has the name {}", key);
  }
  for (const auto& [name, path] : plan_.external_devices) {
    auto is_meant = [&](const Node& node) { return node.entry->source() == "dev[" + name + "]"; };
    if (plan_.all_keys_used && std::none_of(tree_.nodes.begin(), tree_.nodes.end(), is_meant))
      throw Error("mount " + path, "")
          .because("the image has no mount of a device with the name \"" + name + "\"")
          .hint("Leave it out, or use the name that was given at the dump.");
  }
}

std::string Sources::device_of(const image::MntEntry& entry) const {
  const std::string& source = entry.source();
  if (!source.starts_with("dev[") || !source.ends_with(']')) return {};
  std::string name = source.substr(4, source.size() - 5);
  auto device = plan_.external_devices.find(name);
  std::string naming = "--external dev[" + name + "]:/dev/DEVICE";
  if (device == plan_.external_devices.end())
    throw Error("restore the mount", describe(entry))
        .because("no device is given for its name \"" + name + "\"")
        .hint("Name one: " + naming + ".");
  UniqueFd fd = kernel::open(device->second, O_PATH);
  if (!S_ISBLK(kernel::stat_fd(fd.get(), STATX_TYPE).stx_mode))
    throw Error("restore the mount", describe(entry))
        .because(device->second + " is no block device")
        .hint("Name the one that holds its file system: " + naming + ".");
  return device->second;
}

}  // namespace stasis::engine::mounts
