#include "engine/mounts/tree.h"

#include <algorithm>
#include <map>
#include <unordered_map>

#include "base/error.h"
#include "base/text.h"
#include "engine/mounts/fs_types.h"
#include "engine/mounts/layers.h"
#include "engine/plan.h"

namespace stasis::engine::mounts {

namespace {

constexpr size_t most_mounts = 20000;

Error refusal(const image::MntEntry& entry, std::string cause) {
  return Error("rebuild the mount", describe(entry)).because(std::move(cause));
}

// What else can be done about a file system that isn't known here.
std::string by_device(const image::MntEntry& entry) {
  uint32_t major = entry.root_dev() >> 20, minor = entry.root_dev() & 0xfffff;
  if (major == 0)
    return "; or allow it to be made anew, empty: --enable-fs TYPE, or a policy rule (recreate)";
  return "; or its device: --external dev[" + std::to_string(major) + "/" + std::to_string(minor) +
         "]:KEY, and at restore dev[KEY]:/dev/DEVICE";
}

class Planner {
 public:
  explicit Planner(const std::vector<const Entries*>& spaces);
  Tree finish(const std::set<uint32_t>& stored);

 private:
  const image::MntEntry& entry(int i) const { return *tree_.nodes[i].entry; }
  void link_parents();
  void link(int i, const std::unordered_map<uint32_t, int>& index);
  void name_externals();
  void choose_owners();
  void find_unseen(const std::set<uint32_t>& stored);
  void choose_source(int i);
  std::vector<int> siblings_beneath(int i) const;
  void visit(int i);
  int mount_at(int i, const std::string& path, bool in_place) const;
  void place_layer(int i, Layer& layer);
  void plant();
  void group();
  void widen(Group& group, const std::vector<int>& slaves);
  void sort_groups(std::map<std::pair<uint32_t, uint32_t>, Group> groups);

  Tree tree_;
  std::vector<std::map<std::string, int>> children_;  // by mountpoint
  std::unordered_map<uint32_t, std::vector<int>> superblocks_;
  std::unordered_map<uint32_t, int> owner_;   // superblock -> the node that creates it
  std::unordered_map<uint32_t, int> unseen_;  // superblock -> index
  enum class State : char { missing, begun, in_place };
  std::vector<State> state_;
};

Planner::Planner(const std::vector<const Entries*>& spaces) {
  size_t count = 0;
  for (const Entries* entries : spaces) count += entries->size();
  if (count > most_mounts)
    throw Error("rebuild the mount tree", "")
        .because("it has " + std::to_string(count) + " mounts, more than " +
                 std::to_string(most_mounts));
  tree_.roots.assign(spaces.size(), -1);
  for (size_t space = 0; space < spaces.size(); ++space)
    for (auto entry = spaces[space]->rbegin(); entry != spaces[space]->rend(); ++entry) {
      if (!is_plain_path(entry->mountpoint()))
        throw refusal(*entry, "its mountpoint is no absolute path");
      superblocks_[entry->root_dev()].push_back(static_cast<int>(tree_.nodes.size()));
      Node& node = tree_.nodes.emplace_back();
      node.entry = &*entry;
      node.space = static_cast<int>(space);
    }
}

void Planner::link_parents() {
  std::unordered_map<uint32_t, int> index;
  int count = static_cast<int>(tree_.nodes.size());
  for (int i = 0; i < count; ++i)
    if (!index.emplace(entry(i).mnt_id(), i).second)
      throw refusal(entry(i), "its id " + std::to_string(entry(i).mnt_id()) + " appears twice");
  children_.resize(tree_.nodes.size());
  for (int i = 0; i < count; ++i) link(i, index);
  for (int root : tree_.roots)
    if (root < 0) throw Error("rebuild the mount tree", "").because("no mount stands at /");
  // That of another namespace is a mount like any other.
  tree_.nodes[tree_.roots[0]].how = How::root;
}

void Planner::link(int i, const std::unordered_map<uint32_t, int>& index) {
  Node& node = tree_.nodes[i];
  auto parent = index.find(entry(i).parent_mnt_id());
  if (parent == index.end() || parent->second == i ||
      tree_.nodes[parent->second].space != node.space) {
    int& root = tree_.roots[node.space];
    if (entry(i).mountpoint() != "/" || root >= 0)
      throw refusal(entry(i), "the mount it stands on is not in the table")
          .hint("If that one is skipped, this one must be skipped, too.");
    root = i;
    return;
  }
  node.parent = parent->second;
  if (!is_beneath(entry(i).mountpoint(), entry(parent->second).mountpoint()))
    throw refusal(entry(i), "it doesn't lie beneath the mount it stands on, " +
                                describe(entry(parent->second)));
  if (!children_[parent->second].emplace(entry(i).mountpoint(), i).second)
    throw refusal(entry(i), "two mounts stand at the same place of the same mount")
        .hint("Unmount one of them inside the container.");
}

void Planner::name_externals() {
  for (size_t i = 0; i < tree_.nodes.size(); ++i) {
    auto& node = tree_.nodes[i];
    if (node.how == How::root) continue;
    node.key = external_key(*node.entry);
    if (node.key == external_device) node.key.clear();  // made anew, from a device that is given
    if (!node.key.empty()) node.how = How::external;
    if (!node.entry->with_plugin()) continue;
    if (!is_plain_path(node.entry->root()))
      throw refusal(*node.entry, "its root is no absolute path");
    node.how = How::external;  // by its provider
    node.subpath = relative_to(node.entry->root(), "/");
  }
}

// A superblock of the container's own is created where its root is mounted
// for the first time.
void Planner::choose_owners() {
  for (size_t i = 0; i < tree_.nodes.size(); ++i) {
    auto& node = tree_.nodes[i];
    bool layered = is_layered(*node.entry);
    if (node.how != How::fresh || node.entry->root() != "/" ||
        !(layered || mountable_type(*node.entry)))
      continue;
    bool shown_from_outside = false;
    for (int other : superblocks_[node.entry->root_dev()]) {
      const auto& same = tree_.nodes[other];
      shown_from_outside |= (same.how == How::root || same.how == How::external) &&
                            !same.entry->ext_mount() && same.entry->root() == "/";
    }
    if (shown_from_outside || !owner_.emplace(node.entry->root_dev(), static_cast<int>(i)).second ||
        !layered)
      continue;
    for (auto& path : layer_paths(*node.entry)) node.layers.push_back({std::move(path), -1});
  }
}

// What is shown of these is known to be the container's own.
void Planner::find_unseen(const std::set<uint32_t>& stored) {
  for (size_t i = 0; i < tree_.nodes.size(); ++i) {
    auto& node = tree_.nodes[i];
    uint32_t device = node.entry->root_dev();
    if (node.how != How::fresh || node.entry->fstype() != image::TMPFS || !stored.count(device) ||
        owner_.count(device) || node.entry->deleted() || !is_plain_path(node.entry->root()))
      continue;
    const auto& all = superblocks_[device];
    if (std::any_of(all.begin(), all.end(), [&](int other) {
          return tree_.nodes[other].how == How::root || tree_.nodes[other].how == How::external;
        }))
      continue;
    auto [known, is_new] = unseen_.emplace(device, static_cast<int>(tree_.unseen.size()));
    if (is_new) tree_.unseen.push_back({node.entry, {}});
    tree_.unseen[known->second].parts.push_back(static_cast<int>(i));
    node.how = How::bind;
    node.unseen = known->second;
    node.subpath = node.entry->root().substr(1);
  }
}

void Planner::choose_source(int i) {
  auto& node = tree_.nodes[i];
  if (node.how == How::root || node.unseen >= 0) return;
  auto owner = owner_.find(node.entry->root_dev());
  bool own = owner != owner_.end();
  if (own && owner->second == i) return;
  // A masked path is a bind of the container's own /dev/null, though runc asks
  // for the host's: with its own, the tree comes back as it was.
  bool masked = own && node.key == "/dev/null" && node.entry->root() == "/null";
  if (node.how == How::external && !masked) return;
  const std::string& root = node.entry->root();
  if (!is_plain_path(root) || node.entry->deleted() || root.ends_with("//deleted"))
    throw refusal(*node.entry, "it shows a file or directory that has been deleted (" + root + ")")
        .hint("Unmount it in the container, or name it as external.");
  int best = own ? owner->second : -1;
  for (int other : superblocks_[node.entry->root_dev()]) {
    const auto& same = tree_.nodes[other];
    if (own || (same.how != How::root && same.how != How::external)) continue;
    if (same.entry->ext_mount() || !is_beneath(root, same.entry->root())) continue;
    if (best < 0 || same.how == How::root) best = other;
  }
  if (best < 0)
    throw refusal(*node.entry, root == "/" ? "a file system of this type can't be mounted anew"
                                           : "it shows a part of a file system (" + root +
                                                 ") that the container has mounted nowhere else")
        .hint("Name it as external: --external mnt[" + node.entry->mountpoint() +
              "]:KEY, and at restore mnt[KEY]:SOURCE" +
              (root == "/" ? by_device(*node.entry) : "") + "; or unmount it in the container.");
  node.how = How::bind;
  node.key.clear();
  node.source = best;
  node.subpath = relative_to(root, tree_.nodes[best].entry->root());
}

// In the table's order.
std::vector<int> Planner::siblings_beneath(int i) const {
  std::vector<int> beneath;
  const auto& siblings = children_[tree_.nodes[i].parent];
  std::string place = entry(i).mountpoint();
  if (place != "/") place += '/';
  for (auto next = siblings.lower_bound(place);
       next != siblings.end() && next->first.starts_with(place); ++next)
    if (next->second != i) beneath.push_back(next->second);
  std::sort(beneath.begin(), beneath.end());
  return beneath;
}

void Planner::visit(int i) {
  if (state_[i] == State::in_place) return;
  if (state_[i] == State::begun) throw refusal(entry(i), "it would have to be there before itself");
  state_[i] = State::begun;
  if (tree_.nodes[i].parent >= 0) {
    visit(tree_.nodes[i].parent);
    // What this mount will hide must be in place before.
    for (int sibling : siblings_beneath(i)) visit(sibling);
  }
  for (Layer& layer : tree_.nodes[i].layers) place_layer(i, layer);
  state_[i] = State::in_place;
  tree_.order.push_back(i);
}

// The mount that a walk along `path` ended in when node i was mounted: what the table has after it
// came later. `in_place`: the one that it would end in now.
int Planner::mount_at(int i, const std::string& path, bool in_place) const {
  int at = tree_.roots[tree_.nodes[i].space];
  for (int next = at; next >= 0;) {
    at = next;
    next = -1;
    for (const auto& [point, child] : children_[at]) {
      if (!is_beneath(path, point)) continue;
      if (in_place ? state_[child] != State::in_place : child >= i) continue;
      if (next < 0 || point.size() < entry(next).mountpoint().size()) next = child;
    }
  }
  return at;
}

void Planner::place_layer(int i, Layer& layer) {
  layer.node = mount_at(i, layer.path, false);
  visit(layer.node);
  const Node* source = &tree_.nodes[layer.node];
  while (source->source >= 0) source = &tree_.nodes[source->source];
  auto refuse = [&](const char* why) {
    return layered_refusal(entry(i), "its layer " + layer.path + " lies on " +
                                         describe(entry(layer.node)) + ", which " + why);
  };
  // Who can write there could have the layer lead elsewhere while it is mounted.
  if (source->how == How::external) throw refuse("comes from the host");
  if (mount_at(i, layer.path, true) != layer.node) throw refuse("will be covered before");
}

// A mount may show the superblock of one that can only come later, because it
// covers this one, or of one in another namespace.
void Planner::plant() {
  std::vector<size_t> position(tree_.nodes.size());
  for (size_t at = 0; at < tree_.order.size(); ++at) position[tree_.order[at]] = at;
  for (size_t i = 0; i < tree_.nodes.size(); ++i) {
    int source = tree_.nodes[i].source;
    if (source >= 0 &&
        (position[source] > position[i] || tree_.nodes[source].space != tree_.nodes[i].space))
      tree_.planted.insert(source);
  }
  for (int i : tree_.planted)
    if (!tree_.nodes[i].layers.empty())
      throw refusal(entry(i), "another mount shows it that has to be there before its layers")
          .hint("Unmount the other one in the container.");
}

void Planner::group() {
  std::map<std::pair<uint32_t, uint32_t>, Group> groups;
  for (size_t i = 0; i < tree_.nodes.size(); ++i) {
    uint32_t shared = entry(static_cast<int>(i)).shared_id();
    uint32_t master = entry(static_cast<int>(i)).master_id();
    if (!shared && !master) continue;
    auto& group = groups[{shared, master}];
    group.shared = shared;
    group.master = master;
    group.members.push_back(static_cast<int>(i));
  }
  std::map<uint32_t, std::vector<int>> slaves;  // by master
  for (auto& [ids, group] : groups) {
    std::stable_sort(group.members.begin(), group.members.end(), [this](int a, int b) {
      return entry(a).root().size() < entry(b).root().size();
    });
    auto& of_master = slaves[group.master];
    of_master.insert(of_master.end(), group.members.begin(), group.members.end());
  }
  for (auto& [ids, group] : groups)
    if (group.shared) widen(group, slaves[group.shared]);
  sort_groups(std::move(groups));
}

// The kernel lets a mount join only a group with a member of a wider root. The
// one that these were copied from may be gone.
void Planner::widen(Group& group, const std::vector<int>& slaves) {
  auto is_within = [&](int i) {
    return is_beneath(entry(i).root(), entry(group.members[0]).root());
  };
  if (std::all_of(group.members.begin(), group.members.end(), is_within) &&
      std::all_of(slaves.begin(), slaves.end(), is_within))
    return;
  const Node& first = tree_.nodes[group.members[0]];
  group.wide_unseen = first.unseen;
  group.wide_node = first.source;
  if (first.source >= 0) tree_.planted.insert(first.source);
}

void Planner::sort_groups(std::map<std::pair<uint32_t, uint32_t>, Group> groups) {
  // Masters first; a master outside of the container counts as there already.
  auto is_waiting = [&groups](uint32_t id) {
    return std::any_of(groups.begin(), groups.end(),
                       [id](const auto& g) { return g.second.shared == id; });
  };
  while (!groups.empty()) {
    size_t before = groups.size();
    for (auto it = groups.begin(); it != groups.end();) {
      if (it->second.master && is_waiting(it->second.master)) {
        ++it;
        continue;
      }
      tree_.groups.push_back(std::move(it->second));
      it = groups.erase(it);
    }
    if (groups.size() == before)
      throw refusal(entry(groups.begin()->second.members[0]),
                    "its peer group is a slave of itself");
  }
}

Tree Planner::finish(const std::set<uint32_t>& stored) {
  link_parents();
  name_externals();
  choose_owners();
  find_unseen(stored);
  for (size_t i = 0; i < tree_.nodes.size(); ++i) choose_source(static_cast<int>(i));
  state_.assign(tree_.nodes.size(), State::missing);
  for (size_t i = 0; i < tree_.nodes.size(); ++i) visit(static_cast<int>(i));
  group();
  plant();
  return std::move(tree_);
}

}  // namespace

std::string external_key(const image::MntEntry& entry) {
  // Early images have the key in place of the root.
  if (entry.has_ext_key()) return entry.ext_key();
  return entry.ext_mount() ? entry.root() : std::string();
}

bool is_plain_path(const std::string& path) {
  if (path == "/") return true;
  if (path.empty() || path[0] != '/' || path.find('\0') != std::string::npos) return false;
  for (auto part : text::split(std::string_view(path).substr(1), '/'))
    if (part.empty() || part == "." || part == "..") return false;
  return true;
}

bool is_beneath(const std::string& path, const std::string& base) {
  if (base == "/") return path.starts_with('/');
  return path.starts_with(base) && (path.size() == base.size() || path[base.size()] == '/');
}

std::string relative_to(const std::string& path, const std::string& base) {
  size_t start = base == "/" ? 1 : std::min(base.size() + 1, path.size());
  return path.substr(std::min(start, path.size()));
}

std::string describe(const image::MntEntry& entry) {
  auto type = entry.fsname().empty() ? mountable_type(entry).value_or("") : entry.fsname();
  if (type.empty()) type = entry.source().empty() ? "type unknown" : "from " + entry.source();
  return entry.mountpoint() + " (" + type + ")";
}

Tree plan_tree(const std::vector<const Entries*>& spaces, const std::set<uint32_t>& stored) {
  return Planner(spaces).finish(stored);
}

Tree plan_tree(const Entries& entries, const std::set<uint32_t>& stored) {
  return plan_tree(std::vector<const Entries*>{&entries}, stored);
}

}  // namespace stasis::engine::mounts
