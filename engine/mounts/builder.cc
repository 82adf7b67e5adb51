#include <fcntl.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "base/text.h"
#include "engine/files/pty.h"
#include "engine/image/checkpoint.h"
#include "engine/mounts/archive.h"
#include "engine/mounts/fresh.h"
#include "engine/mounts/fs_types.h"
#include "engine/mounts/hidden.h"
#include "engine/mounts/layers.h"
#include "engine/mounts/locked.h"
#include "engine/mounts/mountpoint.h"
#include "engine/mounts/mounts.h"
#include "engine/mounts/propagation.h"
#include "engine/mounts/sources.h"
#include "engine/mounts/staging.h"
#include "engine/mounts/tree.h"
#include "kernel/fs.h"
#include "kernel/mount_api.h"

namespace stasis::engine::mounts {

namespace {

// The root task's mount namespace first.
std::vector<uint32_t> ns_ids_of(const image::Checkpoint& checkpoint) {
  std::vector<uint32_t> ids{checkpoint.root().ids.mnt_ns_id()};
  if (!checkpoint.mounts.count(ids[0]))
    throw Error("rebuild the mount tree", "").because("the image holds no mounts");
  for (const auto& [id, entries] : checkpoint.mounts)
    if (id != ids[0]) ids.push_back(id);
  return ids;
}

std::vector<const Entries*> entries_of(const image::Checkpoint& checkpoint,
                                       const std::vector<uint32_t>& ns_ids) {
  std::vector<const Entries*> spaces;
  spaces.reserve(ns_ids.size());
  for (uint32_t id : ns_ids) spaces.push_back(&checkpoint.mounts.at(id));
  return spaces;
}

}  // namespace

struct Builder::State {
  State(const image::Checkpoint& checkpoint, const RestorePlan& restore_plan, Log& its_log)
      : plan(restore_plan),
        log(its_log),
        ns_ids(ns_ids_of(checkpoint)),
        tree(plan_tree(entries_of(checkpoint, ns_ids), stored_devices(checkpoint))),
        hidden(hidden_files(checkpoint)) {}

  void hold_sources(const image::Checkpoint& checkpoint);
  FreshMount prepare(const image::MntEntry& entry, const image::ImageDir& images);
  void check_allowed(const image::MntEntry& entry, const std::string& device) const;
  UniqueFd make(Staging& staging, int i);
  UniqueFd bind(Staging& staging, const Node& node);
  void make_pty(int devpts, const Node& node);
  bool is_locked(int i) const;
  bool has_locked(int i) const;
  UniqueFd find_locked_on(int i) const;
  void set_attributes(int mount, const Node& node) const;
  void attach(int i);
  void open_hidden(int i);
  void plant_all(Staging& staging);
  void raise(Staging& staging, int space);
  void build_beside(const Staging& staging, int space);
  std::vector<UniqueFd> namespaces() const;
  // Where it is planted; nodes go by their own.
  int number_of(int unseen_index) const {
    return static_cast<int>(tree.nodes.size()) + unseen_index;
  }

  const RestorePlan& plan;
  Log& log;
  std::vector<uint32_t> ns_ids;  // by space
  Tree tree;
  // By node, where it applies. Sources are copies of mounts of the host,
  // attached nowhere, so that what was checked is what is used.
  std::vector<UniqueFd> sources, mounts;
  std::vector<FreshMount> fresh;
  std::vector<FreshMount> unseen;  // as the tree's
  std::vector<HiddenFile> hidden;
  Built built;
  std::vector<Locked> locked;  // where the container has a user namespace
  bool handed_over = false;
  std::optional<mountmap::MountTable> host;
};

FreshMount Builder::State::prepare(const image::MntEntry& entry, const image::ImageDir& images) {
  FreshMount result;
  result.entry = &entry;
  result.lsm_context = plan.lsm_mount_context;
  result.cgroup_options = entry.options();
  if (entry.fstype() == image::TMPFS) {
    // Early images are named by the mount.
    std::string stem = archive_of(entry.root_dev());
    std::string early = "tmpfs-" + std::to_string(entry.mnt_id()) + ".tar.gz";
    result.content = images.raw(!images.has(stem) && images.has(early) ? early : stem);
  }
  if (entry.fstype() == image::CGROUP || entry.fstype() == image::CGROUP2) {
    // Without a cgroup namespace these are the host's own hierarchies: not to be
    // created by an image, nor to be given other options.
    if (!host) host = mountmap::MountTable::parse(kernel::read_file("/proc/self/mountinfo"));
    const mountmap::Mount* same = nullptr;
    for (const auto& mount : host->mounts())
      if (static_cast<uint32_t>(fstype_code(mount.fstype)) == entry.fstype() &&
          (entry.fstype() == image::CGROUP2 || mount.sb_options == entry.options()))
        same = &mount;
    if (!same)
      throw Error("restore the mount", describe(entry))
          .because("this host has no such cgroup hierarchy (" + entry.options() + ")")
          .hint("Restore on a host with the same cgroup version and controllers.");
    result.cgroup_options = same->sb_options;
  }
  return result;
}

// An image may not mount what it likes: a type with a device or a server behind
// it could be anything.
void Builder::State::check_allowed(const image::MntEntry& entry, const std::string& device) const {
  if (entry.fstype() != image::AUTO || !device.empty() || is_known_type(entry.fsname())) return;
  if (plan.enabled_fs.contains(entry.fsname()) || plan.enabled_fs.contains("all")) return;
  throw Error("restore the mount", describe(entry))
      .because("the image wants a file system of type " + entry.fsname() +
               " to be mounted, which wasn't allowed")
      .hint("Allow it: --enable-fs " + entry.fsname() + ".");
}

void Builder::State::hold_sources(const image::Checkpoint& checkpoint) {
  const uint64_t own = checkpoint.namespaces();
  Sources held(checkpoint, plan, tree, log);
  sources = held.hold_all();
  mounts.resize(tree.nodes.size());
  fresh.resize(tree.nodes.size());
  for (size_t i = 0; i < tree.nodes.size(); ++i) {
    const Node& node = tree.nodes[i];
    if (node.how != How::fresh) continue;
    std::string device = held.device_of(*node.entry);
    check_allowed(*node.entry, device);
    fresh[i] = prepare(*node.entry, checkpoint.dir);
    fresh[i].source = std::move(device);
    // Without a cgroup namespace the hierarchy is the host's, which root in a user
    // namespace may show, but not mount.
    bool cgroup = node.entry->fstype() == image::CGROUP || node.entry->fstype() == image::CGROUP2;
    if (cgroup && (own & CLONE_NEWUSER) && !(own & CLONE_NEWCGROUP))
      sources[i] = make_fresh(fresh[i]);
  }
  for (const Unseen& whole : tree.unseen) unseen.push_back(prepare(*whole.entry, checkpoint.dir));
  if (own & CLONE_NEWUSER) locked = to_be_locked(checkpoint, tree, sources, hidden, log);
}

bool Builder::State::is_locked(int i) const {
  return std::any_of(locked.begin(), locked.end(),
                     [i](const Locked& one) { return one.node == i; });
}

bool Builder::State::has_locked(int i) const {
  return std::any_of(locked.begin(), locked.end(),
                     [i](const Locked& one) { return one.parent == i; });
}

// It came with the mount that it stands on.
UniqueFd Builder::State::find_locked_on(int i) const {
  const Node& node = tree.nodes[i];
  const std::string& place = node.entry->mountpoint();
  constexpr uint64_t across = within_mount & ~static_cast<uint64_t>(RESOLVE_NO_XDEV);
  std::string path = relative_to(place, tree.nodes[node.parent].entry->mountpoint());
  UniqueFd mount = kernel::open_in(mounts[node.parent].get(), path, O_PATH | O_NOFOLLOW, across);
  set_attributes(mount.get(), node);
  return mount;
}

// There is a terminal to be mounted (on /dev/console) as long as its master is open.
void Builder::State::make_pty(int devpts, const Node& node) {
  auto index = text::to_int<unsigned>(node.subpath);
  if (!index) return;  // ptmx
  uint32_t device = node.entry->root_dev();
  UniqueFd& master = built.ptys[{makedev(device >> 20, device & 0xfffff), *index}];
  if (master.valid()) return;
  UniqueFd node_of_ptmx = kernel::open_in(devpts, "ptmx", O_PATH | O_NOFOLLOW, within_mount);
  master = files::open_ptmx(node_of_ptmx.get(), *index);
}

// A part of a mount of ours, which other mounts may hide by now.
UniqueFd Builder::State::bind(Staging& staging, const Node& node) {
  UniqueFd planted;
  if (node.unseen >= 0) planted = staging.planted(number_of(node.unseen));
  if (tree.planted.count(node.source)) planted = staging.planted(node.source);
  int source = planted.valid() ? planted.get() : mounts[node.source].get();
  if (node.subpath.empty()) return kernel::open_tree(source, "", OPEN_TREE_CLONE);
  if (node.entry->fstype() == image::DEVPTS) make_pty(source, node);
  long part = kernel::try_open_in(source, node.subpath, O_PATH | O_NOFOLLOW, within_mount);
  UniqueFd bare;
  if (part == -EXDEV) {
    bare = kernel::open_tree(source, "", OPEN_TREE_CLONE);
    staging.attach(bare.get());
    part = kernel::try_open_in(bare.get(), node.subpath, O_PATH | O_NOFOLLOW, within_mount);
  }
  UniqueFd fd(static_cast<int>(kernel::must(
      part, "find what is mounted at " + node.entry->mountpoint() + ",", node.subpath)));
  return kernel::open_tree(fd.get(), "", OPEN_TREE_CLONE);
}

// Of a mount on which nothing stands.
UniqueFd part_of(int mount, const std::string& path) {
  if (path.empty()) return kernel::open_tree(mount, "", OPEN_TREE_CLONE);
  UniqueFd part = kernel::open_in(mount, path, O_PATH | O_NOFOLLOW, within_mount);
  return kernel::open_tree(part.get(), "", OPEN_TREE_CLONE);
}

// Attached nowhere and private.
UniqueFd Builder::State::make(Staging& staging, int i) {
  const Node& node = tree.nodes[i];
  UniqueFd mount;
  if (tree.planted.count(i)) {
    mount = kernel::open_tree(staging.planted(i).get(), "", OPEN_TREE_CLONE);
  } else if (!node.layers.empty()) {
    mount_layered(tree, i, mounts, staging.place());
    mount = kernel::open_tree(staging.placed().get(), "", OPEN_TREE_CLONE);
  } else if (node.how == How::fresh && !sources[i].valid()) {
    return make_fresh(fresh[i]);
  } else if (node.how == How::bind) {
    mount = bind(staging, node);
  } else {
    if (has_locked(i)) {
      mount = copy_whole(i);
      set_attributes(mount.get(), node);
      return mount;
    }
    // Staged in this namespace, where alone it can be copied; the copy is as
    // young as its place in the order asks for.
    if (!handed_over) staging.attach(sources[i].get());
    mount = part_of(sources[i].get(), node.subpath);
  }
  set_attributes(mount.get(), node);
  return mount;
}

void Builder::State::set_attributes(int mount, const Node& node) const {
  const std::string& place = node.entry->mountpoint();
  constexpr uint64_t atime = MOUNT_ATTR__ATIME | MOUNT_ATTR_NODIRATIME;
  constexpr uint64_t others = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
                              MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSYMFOLLOW;
  uint64_t wanted = mount_attributes(*node.entry);
  try {
    kernel::set_mount_attributes(mount, wanted, others | atime, MS_PRIVATE, place);
  } catch (const Error& error) {
    if (!handed_over || error.code() != EPERM) throw;
    // A user namespace can't take away what the host's mount is restricted by.
    kernel::set_mount_attributes(mount, wanted & others, 0, MS_PRIVATE, place);
    log.warn("{}: its source is mounted with more restrictions than at the dump; they stay", place);
  }
}

void Builder::State::attach(int i) {
  const Node& node = tree.nodes[i];
  const auto& parent = mounts[node.parent];
  UniqueFd target = open_mountpoint(tree, i, parent.get());
  int onto = target.valid() ? target.get() : parent.get();
  if (is_directory(mounts[i].get()) != is_directory(onto))
    throw Error("restore the mount", describe(*node.entry))
        .because(is_directory(onto) ? "its source is a file, but its mountpoint a directory"
                                    : "its source is a directory, but its mountpoint a file")
        .hint("Give the source that the container was created with.");
  kernel::attach_mount(mounts[i].get(), onto, node.entry->mountpoint());
}

// The files of the mount just attached that later ones will hide: nothing
// stands on it yet.
void Builder::State::open_hidden(int i) {
  const Node& node = tree.nodes[i];
  for (const HiddenFile& file : hidden) {
    if (file.mount != node.entry->mnt_id()) continue;
    // The root of a bound file is no directory to look into.
    built.hidden[file.file] =
        file.path.empty() ? kernel::open_tree(mounts[i].get(), "", 0)
                          : kernel::open_in(mounts[i].get(), file.path,
                                            O_PATH | (file.link ? O_NOFOLLOW : 0), within_mount);
  }
}

// Staged before the namespace is copied: a mount can be copied only within its own.
void Builder::State::plant_all(Staging& staging) {
  for (int i : tree.planted) {
    UniqueFd own;
    if (!sources[i].valid())
      own = make_fresh(fresh[i]);
    else if (handed_over)  // it stands in its place already
      own = kernel::open_tree(sources[i].get(), "", OPEN_TREE_CLONE);
    staging.plant(own.valid() ? own.get() : sources[i].get(), i);
  }
  for (size_t i = 0; i < tree.unseen.size(); ++i)
    staging.plant(make_fresh(unseen[i]).get(), number_of(static_cast<int>(i)));
}

// The whole tree of a namespace, our present one, but not yet as its root.
void Builder::State::raise(Staging& staging, int space) {
  for (int i : tree.order) {
    if (tree.nodes[i].space != space) continue;
    if (is_locked(i)) {
      mounts[i] = find_locked_on(i);
      open_hidden(i);
      continue;
    }
    mounts[i] = make(staging, i);
    if (i == tree.roots[space])
      staging.attach_root(mounts[i].get());
    else
      attach(i);
    open_hidden(i);
  }
}

// In a copy of our namespace, from which we come back.
void Builder::State::build_beside(const Staging& staging, int space) {
  const char* self = "/proc/self/ns/mnt";
  UniqueFd home = kernel::open(self, O_RDONLY);
  staging.enter();
  kernel::must(kernel::call(SYS_unshare, CLONE_NEWNS), "make", "a mount namespace");
  BuiltSpace& made = built.spaces[ns_ids[space]];
  made.ns = kernel::open(self, O_RDONLY);
  Staging copy = staging.copied();
  raise(copy, space);
  kernel::replace_root(mounts[tree.roots[space]].get(), staging.covers_root());
  made.root = kernel::open("/", O_PATH | O_DIRECTORY);
  kernel::must(kernel::call(SYS_setns, home.get(), CLONE_NEWNS), "return to",
               "the container's mount namespace");
}

// Of each space the descriptor of its namespace; of the first, which we are in,
// a new one.
std::vector<UniqueFd> Builder::State::namespaces() const {
  std::vector<UniqueFd> all;
  if (ns_ids.size() == 1) return all;
  all.push_back(kernel::open("/proc/self/ns/mnt", O_RDONLY));
  for (size_t space = 1; space < ns_ids.size(); ++space) {
    int fd = built.spaces.at(ns_ids[space]).ns.get();
    long copy = kernel::must(kernel::call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 0), "duplicate",
                             "a mount namespace's descriptor");
    all.emplace_back(static_cast<int>(copy));
  }
  return all;
}

std::set<uint32_t> stored_devices(const image::Checkpoint& checkpoint) {
  std::set<uint32_t> devices;
  for (const auto& [id, entries] : checkpoint.mounts)
    for (const auto& entry : entries)
      if (checkpoint.dir.has(archive_of(entry.root_dev()))) devices.insert(entry.root_dev());
  return devices;
}

Builder::Builder(const image::Checkpoint& checkpoint, const RestorePlan& plan, Log& log)
    : state_(std::make_unique<State>(checkpoint, plan, log)) {
  state_->hold_sources(checkpoint);
}

Builder::~Builder() = default;

void Builder::hand_over(std::optional<Handover>& handover) {
  handover.emplace(state_->plan.root, state_->sources, state_->locked);
  state_->handed_over = true;
}

Built Builder::build() {
  State& state = *state_;
  UniqueFd place;
  if (state.handed_over) {
    state.sources = take_over(state.sources);
    place = take_over_place();
  } else {
    kernel::make_tree_private("/");
    place = kernel::open(state.plan.root, O_PATH | O_DIRECTORY);
  }
  Staging staging(place.get());
  state.plant_all(staging);
  for (int space = 1; space < static_cast<int>(state.ns_ids.size()); ++space)
    state.build_beside(staging, space);
  state.raise(staging, 0);
  auto wide_mount = [&](const Group& group) {
    int number = group.wide_unseen >= 0 ? state.number_of(group.wide_unseen) : group.wide_node;
    UniqueFd mount = kernel::open_tree(staging.planted(number).get(), "", OPEN_TREE_CLONE);
    kernel::set_mount_attributes(mount.get(), 0, 0, MS_PRIVATE, "the staging area");
    staging.attach(mount.get());
    return mount;
  };
  auto namespaces = state.namespaces();
  auto propagate = [&] {
    restore_propagation(state.tree, state.mounts, state.sources, namespaces, wide_mount, state.log);
  };
  // A shared mount can't become the root.
  int root = state.tree.roots[0];
  bool shared_root = state.tree.nodes[root].entry->shared_id() != 0;
  if (!shared_root) propagate();
  kernel::replace_root(state.mounts[root].get(), staging.covers_root(),
                       shared_root ? propagate : std::function<void()>());
  state.log.info("{} mounts rebuilt", state.tree.nodes.size());
  Built built = std::move(state.built);
  state_.reset();
  return built;
}

}  // namespace stasis::engine::mounts
