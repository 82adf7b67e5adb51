#include "engine/namespaces/cgroup_dumper.h"

#include <dirent.h>
#include <fmt/core.h>
#include <sched.h>

#include <algorithm>
#include <cstddef>
#include <set>

#include "base/text.h"
#include "engine/namespaces/namespaces.h"
#include "kernel/fs.h"

namespace stasis::engine::cgroup {
namespace {

constexpr int deepest = 64;
constexpr int most = 4096;  // directories of one hierarchy

std::string cgroup_file(pid_t pid, pid_t tid) {
  return kernel::read_file(fmt::format("/proc/{}/task/{}/cgroup", pid, tid));
}

std::vector<std::string> subdirectories(int directory, const std::string& name) {
  std::vector<std::string> names;
  // Counts itself, its parent's entry and every subdirectory.
  if (kernel::stat_fd(directory, STATX_NLINK).stx_nlink == 2) return names;
  alignas(dirent64) char buffer[8192];
  for (long size;
       (size = kernel::must(kernel::call(SYS_getdents64, directory, buffer, sizeof buffer), "list",
                            name)) > 0;) {
    for (long at = 0; at < size;) {
      const auto* entry = reinterpret_cast<const dirent64*>(buffer + at);
      at += entry->d_reclen;
      if (entry->d_type == DT_DIR && entry->d_name[0] != '.') names.emplace_back(entry->d_name);
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

// Writes down a directory with its properties, and below it what is the
// container's: all below its tasks' cgroups, and what leads to these.
class Walk {
 public:
  Walk(const Hierarchy& hierarchy, const std::set<std::string>& occupied)
      : hierarchy_(hierarchy), occupied_(occupied) {}

  void describe(const std::string& path, bool head, image::CgroupDirEntry& entry, int depth = 0) {
    if (depth > deepest || ++count_ > most)
      throw Error("dump", "cgroup " + hierarchy_.name + " " + path)
          .because("there are too many cgroups below the container's");
    UniqueFd directory =
        kernel::open_at(hierarchy_.root.get(), relative(path), O_RDONLY | O_DIRECTORY);
    const struct statx found = kernel::stat_fd(directory.get());
    image::CgroupPerms& perms = *entry.mutable_dir_perms();
    perms.set_mode(found.stx_mode & 07777u);
    perms.set_uid(found.stx_uid);
    perms.set_gid(found.stx_gid);
    add_properties(directory.get(), head, entry);
    for (const std::string& name : subdirectories(directory.get(), path)) {
      const std::string child = join(path, name);
      if (!is_the_containers(child)) continue;
      image::CgroupDirEntry& next = *entry.add_children();
      next.set_dir_name(name);
      describe(child, false, next, depth + 1);
    }
  }

  bool threaded() const { return threaded_; }

 private:
  bool is_the_containers(const std::string& path) const {
    return std::any_of(occupied_.begin(), occupied_.end(), [&](const std::string& place) {
      return is_below(place, path) || is_below(path, place);
    });
  }

  // The container's own cgroup is filled by the runtime, what lies below isn't.
  void add_properties(int directory, bool head, image::CgroupDirEntry& entry) {
    for (const std::string& name : properties(hierarchy_)) {
      if (head && name != "cgroup.subtree_control" && name != "cgroup.type") continue;
      long fd = kernel::call(SYS_openat, directory, name.c_str(), O_RDONLY | O_CLOEXEC);
      if (fd < 0) continue;  // of a controller that isn't enabled here
      UniqueFd file(static_cast<int>(fd));
      std::string text = kernel::read_all(file.get(), name);
      std::string value(text::trim(text));
      if (name == "cgroup.type") {
        threaded_ = threaded_ || value == "threaded";
        if (value != "threaded") continue;
      }
      image::CgroupPropEntry& property = *entry.add_properties();
      property.set_name(name);
      property.set_value(std::move(value));
    }
  }

  const Hierarchy& hierarchy_;
  const std::set<std::string>& occupied_;
  int count_ = 0;
  bool threaded_ = false;
};

}  // namespace

Dumper::Dumper(const DumpPlan& plan, const namespaces::NsIds& ids) : plan_(plan), ids_(ids) {
  std::string text = kernel::read_file("/proc/self/cgroup");
  sets_.push_back(parse_membership(text, "ourselves"));
  std::string root = cgroup_file(plan.root, plan.root);
  root_ = parse_membership(root, fmt::format("process {}", plan.root));
  if (ids.own(CLONE_NEWCGROUP)) {
    UniqueFd pidfd = kernel::pidfd_open(plan.root);
    std::string inside;
    namespaces::in_namespaces(pidfd.get(), CLONE_NEWCGROUP,
                              [&] { inside = cgroup_file(plan.root, plan.root); });
    set_prefixes(root_, inside);
  }
}

Membership Dumper::membership(pid_t pid, pid_t tid, const std::string& text) const {
  const std::string subject = fmt::format("process {}, thread {}", pid, tid);
  Membership members = parse_membership(text, subject);
  // There is one cgroup namespace; its roots are the same for everybody.
  for (Member& member : members)
    for (const Member& root : root_) {
      if (root.name != member.name || root.prefix == 0) continue;
      if (!is_below(member.path, root.path.substr(0, root.prefix)))
        throw Error("dump", subject)
            .because(fmt::format("its cgroup {} lies outside the container's cgroup namespace",
                                 member.path));
      member.prefix = root.prefix;
    }
  return members;
}

uint32_t Dumper::set_of(pid_t pid, pid_t tid) {
  std::string text = cgroup_file(pid, tid);
  auto [known, is_new] = by_text_.try_emplace(text, 0);
  if (!is_new) return known->second;
  Membership members = membership(pid, tid, text);
  auto same = std::find(sets_.begin(), sets_.end(), members);
  known->second = static_cast<uint32_t>(same - sets_.begin()) + 1;
  if (same == sets_.end()) sets_.push_back(std::move(members));
  return known->second;
}

void Dumper::finish(image::ImageWriter& writer) {
  if (sets_.size() > 1) writer.append("cgroup", describe());
}

image::CgroupEntry Dumper::describe() const {
  image::CgroupEntry image;
  for (size_t i = 1; i < sets_.size(); ++i) {
    image::CgSetEntry& set = *image.add_sets();
    set.set_id(static_cast<uint32_t>(i) + 1);
    for (const Member& member : sets_[i]) {
      image::CgMemberEntry& place = *set.add_ctls();
      place.set_name(member.name);
      place.set_path(member.path);
      if (member.prefix != 0) place.set_cgns_prefix(static_cast<uint32_t>(member.prefix));
    }
  }
  for (const Hierarchy& hierarchy : hierarchies_.all())
    describe(hierarchy, *image.add_controllers());
  return image;
}

void Dumper::describe(const Hierarchy& hierarchy, image::CgControllerEntry& controller) const {
  for (const std::string& name : hierarchy.controllers) controller.add_cnames(name);
  // In v1 threads may always be in different cgroups, in v2 below a threaded one.
  controller.set_is_threaded(!hierarchy.v2());
  if (!plan_.manage_cgroups) return;

  std::set<std::string> occupied;
  std::string head;
  for (size_t i = 1; i < sets_.size(); ++i)
    for (const Member& member : sets_[i]) {
      if (member.name != hierarchy.name) continue;
      std::string top = member.prefix == 0 ? member.path : member.path.substr(0, member.prefix);
      head = head.empty() ? top : common_directory(head, top);
      occupied.insert(std::move(top));
    }
  // Without a common cgroup but the machine's root one, each place stands alone.
  std::set<std::string> heads = head == "/" ? occupied : std::set<std::string>{head};
  for (const std::string& path : heads) {
    bool inner = std::any_of(heads.begin(), heads.end(), [&](const std::string& other) {
      return other != path && other != "/" && is_below(path, other);
    });
    if (path.empty() || inner) continue;
    image::CgroupDirEntry& directory = *controller.add_dirs();
    directory.set_dir_name(path.substr(1));
    if (path == "/") continue;
    Walk walk(hierarchy, occupied);
    walk.describe(path, true, directory);
    if (walk.threaded()) controller.set_is_threaded(true);
  }
}

}  // namespace stasis::engine::cgroup
