#include <sys/mount.h>

#include <algorithm>
#include <map>
#include <optional>

#include "base/text.h"
#include "engine/image/image.h"
#include "engine/mounts/archive.h"
#include "engine/mounts/fs_types.h"
#include "engine/mounts/id_maps.h"
#include "engine/mounts/layers.h"
#include "engine/mounts/mounts.h"
#include "engine/mounts/sources.h"
#include "engine/mounts/taken.h"
#include "engine/mounts/tree.h"
#include "engine/mounts/view.h"
#include "kernel/fs.h"

namespace stasis::engine::mounts {

namespace {

using mountmap::Mount;

uint32_t device(const Mount& mount) { return mount.major << 20 | mount.minor; }

// What is common to all mounts of the plan.
class Surroundings {
 public:
  const mountmap::MountTable& host() const {
    if (!host_) host_ = mountmap::MountTable::parse(kernel::read_file("/proc/self/mountinfo"));
    return *host_;
  }

  bool own_cgroups = false;  // the container has a cgroup namespace
  // Device -> the path that the cgroup namespace begins at: the shortest one.
  std::map<uint32_t, std::string> cgroup_base;
  userns::IdMap ids;

 private:
  mutable std::optional<mountmap::MountTable> host_;  // ours; read when needed
};

bool is_cgroup(const Mount& mount) { return mount.fstype == "cgroup" || mount.fstype == "cgroup2"; }

Surroundings look_around(const DumpPlan& plan) {
  Surroundings result;
  result.ids = userns::IdMap::of(plan.root);
  for (const Space& space : spaces_of(plan))
    for (const auto& mount : space.table->mounts()) {
      if (plan.external_mounts.contains(mount.id) || !is_cgroup(mount)) continue;
      auto [base, is_new] = result.cgroup_base.emplace(device(mount), mount.root);
      if (!is_new && mount.root.size() < base->second.size()) base->second = mount.root;
    }
  if (!result.cgroup_base.empty())
    result.own_cgroups = kernel::read_link("/proc/self/ns/cgroup") !=
                         kernel::read_link("/proc/" + std::to_string(plan.root) + "/ns/cgroup");
  return result;
}

uint32_t mount_flags(const Mount& mount) {
  auto flags = static_cast<uint32_t>(mount.flags);
  if (!(flags & (MS_RELATIME | MS_NOATIME))) flags |= MS_STRICTATIME;
  if (mount.shared) flags |= MS_SHARED;
  if (mount.master) flags |= MS_SLAVE;
  if (mount.unbindable) flags |= MS_UNBINDABLE;
  return flags;
}

void set_root(const Mount& mount, const Surroundings& around, image::MntEntry& entry) {
  constexpr std::string_view deleted = "//deleted";
  std::string root = mount.root;
  if (is_cgroup(mount) && !entry.has_ext_key() && around.own_cgroups) {
    // We see more of the hierarchy than the container does, whose cgroup
    // namespace is gone at restore: there the root is its own.
    const auto& base = around.cgroup_base.at(device(mount));
    if (is_beneath(root, base)) root = "/" + relative_to(root, base);
  }
  if (root.ends_with(deleted)) {
    root.resize(root.size() - deleted.size());
    // An external source is there again, or another one in its place.
    if (!entry.has_ext_key()) entry.set_deleted(true);
  }
  entry.set_root(root.empty() ? "/" : root);
}

// To be made anew by the type's name, whatever that is.
bool is_enabled(const Mount& mount, const DumpPlan& plan) {
  if (auto key = plan.external_mounts.find(mount.id); key != plan.external_mounts.end())
    return key->second == external_device;
  return fstype_code(mount.fstype) == image::UNSUPPORTED &&
         (plan.recreated_mounts.contains(mount.id) || plan.enabled_fs.contains(mount.fstype) ||
          plan.enabled_fs.contains("all"));
}

// The kernel shows the ids of the host. Those that aren't mapped are in options
// of the host's mounts only.
std::string options_inside(const std::string& options, const userns::IdMap& ids) {
  if (!ids.maps()) return options;
  std::string result;
  for (std::string_view option : text::split(options, ',')) {
    if (!result.empty()) result += ',';
    std::optional<uint32_t> inside;
    auto id = text::to_int<uint32_t>(option.substr(std::min<size_t>(option.size(), 4)));
    if (id && option.starts_with("uid=")) inside = ids.find_uid_inside(*id);
    if (id && option.starts_with("gid=")) inside = ids.find_gid_inside(*id);
    result += inside ? std::string(option.substr(0, 4)) + std::to_string(*inside) : option;
  }
  return result;
}

image::MntEntry describe(const Mount& mount, const DumpPlan& plan, const Surroundings& around) {
  image::MntEntry entry;
  entry.set_fstype(fstype_code(mount.fstype));
  entry.set_mnt_id(static_cast<uint32_t>(mount.id));
  entry.set_root_dev(device(mount));
  entry.set_parent_mnt_id(static_cast<uint32_t>(mount.parent));
  entry.set_flags(mount_flags(mount));
  entry.set_sb_flags(static_cast<uint32_t>(mount.sb_flags));
  entry.set_mountpoint(mount.mountpoint);
  entry.set_source(mount.source);
  entry.set_options(options_inside(mount.sb_options, around.ids));
  // The kernel doesn't show it, CRIU wants to read it.
  if (mount.fstype == "devpts")
    entry.set_options(entry.options() + (entry.options().empty() ? "" : ",") + "newinstance");
  entry.set_shared_id(static_cast<uint32_t>(mount.shared));
  entry.set_master_id(static_cast<uint32_t>(mount.master));
  if (auto source = plan.mount_sources.find(mount.id); source != plan.mount_sources.end())
    entry.set_source(source->second);
  if (auto written = plan.written_mounts.find(mount.id); written != plan.written_mounts.end()) {
    entry.set_root_dev(written->second.major << 20 | written->second.minor);
    entry.set_source(written->second.source);
    entry.set_options(written->second.options);
  }
  // The root is the restorer's to give; it may be made from this.
  if (plan.provided_mounts.contains(mount.id) && mount.id != plan.mounts.root().id)
    entry.set_with_plugin(true);
  if (is_enabled(mount, plan)) {
    entry.set_fstype(image::AUTO);
    entry.set_fsname(mount.fstype);
  }
  if (auto key = plan.external_mounts.find(mount.id); key != plan.external_mounts.end()) {
    entry.set_ext_key(key->second);
    if (mount.shared) {
      const auto& host = around.host().mounts();
      entry.set_internal_sharing(std::none_of(host.begin(), host.end(), [&](const Mount& other) {
        return other.shared == mount.shared;
      }));
    }
  }
  set_root(mount, around, entry);
  if (auto written = plan.written_mounts.find(mount.id); written != plan.written_mounts.end())
    entry.set_root(written->second.root);
  return entry;
}

struct Description {
  std::vector<Entries> spaces;
  std::vector<Taken> taken;
  Tree tree;
  std::vector<image::MountIdMap> id_maps;
  userns::IdMap ids;
};

// What is left out of the root task's tree is so wherever it was copied to.
bool is_skipped(const Mount& mount, const DumpPlan& plan) {
  return std::any_of(plan.skipped_mounts.begin(), plan.skipped_mounts.end(), [&](int id) {
    const Mount* skipped = plan.mounts.find(id);
    return mount.id == id ||
           (skipped && device(*skipped) == device(mount) && skipped->root == mount.root &&
            skipped->mountpoint == mount.mountpoint);
  });
}

Entries describe_space(const Space& space, const DumpPlan& plan, const Surroundings& around) {
  Entries entries;
  const auto& mounts = space.table->mounts();
  for (auto mount = mounts.rbegin(); mount != mounts.rend(); ++mount) {
    if (is_skipped(*mount, plan)) continue;
    entries.push_back(describe(*mount, plan, around));
  }
  return entries;
}

// Devices of tmpfs whose data is the container's own. The host's, or what the
// host shares, would be told from others by its being mounted here.
std::set<uint32_t> own_tmpfs(const std::vector<Entries>& spaces, const Surroundings& around) {
  std::set<uint32_t> own;
  bool in_parts = false;
  for (const Entries& entries : spaces)
    for (const auto& entry : entries) {
      if (entry.fstype() != image::TMPFS || entry.has_ext_key()) continue;
      own.insert(entry.root_dev());
      in_parts |= entry.root() != "/";
    }
  if (!in_parts) return {};
  for (const auto& mount : around.host().mounts()) own.erase(device(mount));
  return own;
}

Description describe_all(const DumpPlan& plan) {
  auto around = look_around(plan);
  Description result;
  for (const Space& space : spaces_of(plan))
    result.spaces.push_back(describe_space(space, plan, around));
  std::vector<const Entries*> spaces;
  spaces.reserve(result.spaces.size());
  for (const Entries& entries : result.spaces) spaces.push_back(&entries);
  if (!plan.content_mounts.empty() || !plan.recreated_mounts.empty())
    result.taken = take_in(plan, around.host(), result.spaces);
  std::set<uint32_t> stored = own_tmpfs(result.spaces, around);
  for (const auto& taken : result.taken) stored.insert(taken.device);
  result.tree = plan_tree(spaces, stored);
  check_layers(result.tree, spaces_of(plan));
  result.id_maps = find_id_maps(plan, result.tree);
  result.ids = std::move(around.ids);
  return result;
}

size_t pack_space(const Space& space, const std::vector<const Mount*>& with_content,
                  const userns::IdMap& ids, image::ImageWriter& writer, Log& log) {
  auto views = open_views(space, with_content);
  for (size_t i = 0; i < views.size(); ++i) {
    const Mount& mount = *with_content[i];
    if (mount.fstype == "mqueue") continue;  // the ipc namespace's: see posix_queues.cc
    pack(views[i].get(), writer.raw(archive_of(device(mount))), ids, mount.mountpoint);
    log.debug("packed the content of {}", mount.mountpoint);
  }
  return views.size();
}

// Where a part lies within another, that one has it.
void pack_unseen(const DumpPlan& plan, const Tree& tree, const Unseen& whole,
                 const userns::IdMap& ids, image::ImageWriter& writer) {
  std::map<std::string, UniqueFd> parts;
  for (int i : whole.parts) {
    const Node& node = tree.nodes[i];
    bool within = std::any_of(whole.parts.begin(), whole.parts.end(), [&](int j) {
      const auto& other = tree.nodes[j].entry->root();
      return other != node.entry->root() && is_beneath(node.entry->root(), other);
    });
    UniqueFd& part = parts[node.subpath];
    if (within) {
      parts.erase(node.subpath);
      continue;
    }
    if (part.valid()) continue;
    Place place = find_mount(plan, static_cast<int>(node.entry->mnt_id()));
    part = open_view(place);
  }
  pack_parts(parts, writer.raw(archive_of(whole.entry->root_dev())), ids,
             mounts::describe(*whole.entry));
}

void pack_own(const DumpPlan& plan, const Tree& tree, const std::set<uint32_t>& taken,
              const userns::IdMap& ids, image::ImageWriter& writer, Log& log) {
  auto spaces = spaces_of(plan);
  std::vector<std::vector<const Mount*>> with_content(spaces.size());
  for (const auto& node : tree.nodes) {
    bool has_content =
        node.entry->fstype() == image::TMPFS || node.entry->fstype() == image::MQUEUE;
    if (node.how == How::fresh && has_content && !taken.count(node.entry->root_dev()))
      with_content[node.space].push_back(
          spaces[node.space].table->find(static_cast<int>(node.entry->mnt_id())));
  }
  for (const Unseen& whole : tree.unseen)
    if (!taken.count(whole.entry->root_dev())) pack_unseen(plan, tree, whole, ids, writer);
  size_t packed = 0;
  for (size_t i = 0; i < spaces.size(); ++i)
    if (!with_content[i].empty())
      packed += pack_space(spaces[i], with_content[i], ids, writer, log);
  log.info("{} mounts, {} of them with content", tree.nodes.size(), packed);
}

void pack_taken(const DumpPlan& plan, const Taken& taken, const userns::IdMap& ids,
                image::ImageWriter& writer, Log& log) {
  const std::string& name = taken.mount->mountpoint;
  int out = writer.raw(archive_of(taken.device));
  if (!taken.directory) {
    std::map<std::string, UniqueFd> file;
    file[taken.name] = open_view({{plan.root, &plan.mounts}, taken.mount});
    pack_parts(file, out, ids, name);
  } else {
    auto view = open_views({plan.root, &plan.mounts}, {taken.mount});
    if (taken.empty)
      pack_empty(view[0].get(), out, ids, name);
    else
      pack(view[0].get(), out, ids, name);
  }
  log.info("{} the host's data at {}", taken.empty ? "left out" : "took into the image", name);
}

}  // namespace

std::vector<Finding> obstacles(const DumpPlan& plan) {
  try {
    describe_all(plan);
    return {};
  } catch (const Error& error) {
    return {{error.subject(), error.cause(), error.remedy()}};
  }
}

void dump(const DumpPlan& plan, const std::vector<uint32_t>& ns_ids, image::ImageWriter& writer,
          Log& log) {
  auto description = describe_all(plan);
  std::set<uint32_t> taken;
  for (const auto& whole : description.taken) taken.insert(whole.device);
  const userns::IdMap& ids = description.ids;
  pack_own(plan, description.tree, taken, ids, writer, log);
  for (const auto& whole : description.taken) pack_taken(plan, whole, ids, writer, log);
  for (size_t i = 0; i < ns_ids.size(); ++i)
    for (const auto& entry : description.spaces[i])
      writer.append("mountpoints-" + std::to_string(ns_ids[i]), entry);
  write_sources(plan, description.id_maps, writer);
}

}  // namespace stasis::engine::mounts
