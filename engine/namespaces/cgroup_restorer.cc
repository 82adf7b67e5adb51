#include "engine/namespaces/cgroup_restorer.h"

#include <fmt/core.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/text.h"
#include "kernel/fs.h"

namespace stasis::engine::cgroup {
namespace {

constexpr int deepest = 64;
constexpr uint64_t resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;

std::string name_of(const Hierarchy& hierarchy, const std::string& path) {
  return hierarchy.v2() ? "cgroup " + path : "cgroup " + hierarchy.name + " " + path;
}

UniqueFd open_file(const Hierarchy& hierarchy, const std::string& path, const std::string& file,
                   int flags) {
  return kernel::open_in(hierarchy.root.get(), relative(join(path, file)), flags | O_NOFOLLOW,
                         resolve);
}

// -errno or 0.
long try_write(const Hierarchy& hierarchy, const std::string& path, const std::string& file,
               const std::string& value) {
  long fd = kernel::try_open_in(hierarchy.root.get(), relative(join(path, file)),
                                O_WRONLY | O_NOFOLLOW, resolve);
  if (fd < 0) return fd;
  UniqueFd owner(static_cast<int>(fd));
  long written = kernel::call(SYS_write, owner.get(), value.data(), value.size());
  return written < 0 ? written : 0;
}

std::string read_value(const Hierarchy& hierarchy, const std::string& path,
                       const std::string& file) {
  UniqueFd fd = open_file(hierarchy, path, file, O_RDONLY);
  std::string text = kernel::read_all(fd.get(), file);
  return std::string(text::trim(text));
}

void move(const Hierarchy& hierarchy, const std::string& path, const char* file, pid_t id) {
  kernel::must(try_write(hierarchy, path, file, std::to_string(id)), "enter",
               name_of(hierarchy, path));
}

const Member* find(const Membership& members, const Hierarchy& hierarchy) {
  for (const Member& member : members)
    if (member.name == hierarchy.name) return &member;
  return nullptr;
}

Membership membership_of(pid_t pid) {
  return parse_membership(kernel::read_file(fmt::format("/proc/{}/cgroup", pid)),
                          fmt::format("process {}", pid));
}

void check_members(const image::CgSetEntry& set) {
  for (const image::CgMemberEntry& member : set.ctls()) {
    check_path(member.path());
    const size_t prefix = member.cgns_prefix(), size = member.path().size();
    if (prefix > size || (prefix != 0 && prefix < size && member.path()[prefix] != '/'))
      throw image::bad_image(
          "cgroup", -1, fmt::format("cgns_prefix {} doesn't fit path {}", prefix, member.path()));
  }
}

}  // namespace

Restorer::Restorer(const image::Checkpoint& checkpoint, const RestorePlan& plan, Log& log)
    : checkpoint_(checkpoint),
      image_(plan.manage_cgroups && checkpoint.cgroup ? *checkpoint.cgroup
                                                      : image::CgroupEntry::default_instance()),
      plan_(plan),
      log_(log),
      engine_(membership_of(getpid())) {
  const pid_t parent = getppid();  // 0: in an outer pid namespace
  parent_ = parent == 0 ? engine_ : membership_of(parent);
  for (const image::CgSetEntry& set : image_.sets()) {
    check_members(set);
    if (!sets_.emplace(set.id(), places_of(set)).second)
      throw image::bad_image("cgroup", -1, fmt::format("two sets have id {}", set.id()));
  }
  // Nothing is made before every path is known to be sound. The destructor
  // doesn't run for what a constructor leaves by a throw.
  try {
    for (const image::CgControllerEntry& controller : image_.controllers())
      for (const image::CgroupDirEntry& directory : controller.dirs())
        for (const Hierarchy* hierarchy : matching(controller)) {
          std::string path = join("/", directory.dir_name());
          check_path(path);
          path = path_here(*hierarchy, controller.cnames(0), path);
          make_tree(*hierarchy, path, directory, 0);
        }
    for (const auto& [id, places] : sets_)
      for (const Place& place : places) make(*place.hierarchy, place.path);
  } catch (...) {
    remove_made();
    throw;
  }
}

Restorer::~Restorer() {
  if (!committed_) remove_made();
}

void Restorer::remove_made() noexcept {
  for (auto made = made_.rbegin(); made != made_.rend(); ++made)
    kernel::call(SYS_unlinkat, made->first->root.get(), made->second.c_str() + 1, AT_REMOVEDIR);
  made_.clear();
}

// Hierarchies may hold other combinations of controllers here than there.
std::vector<const Hierarchy*> Restorer::matching(const std::vector<std::string>& names) const {
  std::vector<const Hierarchy*> found;
  for (const Hierarchy& hierarchy : hierarchies_.all())
    if (std::any_of(names.begin(), names.end(), [&](const std::string& name) {
          return std::find(hierarchy.controllers.begin(), hierarchy.controllers.end(), name) !=
                 hierarchy.controllers.end();
        }))
      found.push_back(&hierarchy);
  return found;
}

std::vector<const Hierarchy*> Restorer::matching(const image::CgControllerEntry& controller) const {
  return matching({controller.cnames().begin(), controller.cnames().end()});
}

// Where the container's own cgroup is now; empty: where it was.
std::string Restorer::new_root(const Hierarchy& hierarchy) const {
  const auto& roots = plan_.cgroup_roots;
  auto found = roots.end();
  for (const std::string& controller : hierarchy.controllers) {
    // runc names a hierarchy by each controller, and cgroup v2 by nothing.
    found = roots.find(controller);
    if (found == roots.end()) found = roots.find(hierarchy.name);
    if (found != roots.end()) break;
  }
  // Nothing alone, though, is CRIU's way to speak of all.
  if (found == roots.end() && roots.size() == 1) found = roots.find("");
  if (found != roots.end()) {
    check_path(found->second);
    return found->second;
  }
  // On cgroup v2 runc gives no root: it has put us where the container belongs.
  const Member* ours = find(engine_, hierarchy);
  const Member* parents = find(parent_, hierarchy);
  if (plan_.sibling && ours && parents && ours->path != parents->path) return ours->path;
  return {};
}

// The container's own cgroup at the dump that holds `path`, as far as the
// image tells: the root of its cgroup namespace, else a directory of the image.
std::string Restorer::head_of(const std::string& controller, const std::string& path) const {
  for (const image::CgSetEntry& set : image_.sets())
    for (const image::CgMemberEntry& member : set.ctls()) {
      if (member.cgns_prefix() == 0 || text::split(member.name(), ',').front() != controller)
        continue;
      std::string head = member.path().substr(0, member.cgns_prefix());
      if (is_below(path, head)) return head;
    }
  std::string head;
  for (const image::CgControllerEntry& entry : image_.controllers()) {
    if (std::find(entry.cnames().begin(), entry.cnames().end(), controller) == entry.cnames().end())
      continue;
    for (const image::CgroupDirEntry& directory : entry.dirs()) {
      std::string top = join("/", directory.dir_name());
      if (is_below(path, top) && top.size() > head.size()) head = top;
    }
  }
  return head.empty() ? path : head;
}

// Where a cgroup of the image is on this machine now.
std::string Restorer::path_here(const Hierarchy& hierarchy, const std::string& controller,
                                const std::string& path) const {
  const std::string root = new_root(hierarchy);
  if (root.empty()) return path;
  const std::string head = head_of(controller, path);
  return join(root, head == "/" ? path : path.substr(head.size()));
}

std::vector<Restorer::Place> Restorer::places_of(const image::CgSetEntry& set) const {
  std::vector<Place> places;
  for (const image::CgMemberEntry& member : set.ctls()) {
    const std::string& path = member.path();
    std::vector<std::string> names;
    for (std::string_view name : text::split(member.name(), ',')) names.emplace_back(name);
    auto hierarchies = matching(names);
    if (hierarchies.empty())
      log_.warn("Cgroup hierarchy {} doesn't exist here: its cgroup {} is left out", member.name(),
                path);
    for (const Hierarchy* hierarchy : hierarchies) {
      Place& place = places.emplace_back();
      place.hierarchy = hierarchy;
      place.path = path_here(*hierarchy, names.front(), path);
      if (member.cgns_prefix() != 0)
        place.outer = path_here(*hierarchy, names.front(), path.substr(0, member.cgns_prefix()));
    }
  }
  return places;
}

bool Restorer::make(const Hierarchy& hierarchy, const std::string& path) {
  bool is_new = false;
  for (size_t end = 0; end != std::string::npos && path != "/";) {
    end = path.find('/', end + 1);
    const std::string directory = path.substr(0, end);
    long done = kernel::call(SYS_mkdirat, hierarchy.root.get(), directory.c_str() + 1, 0755);
    is_new = done == 0;
    if (done == -EEXIST) continue;
    kernel::must(done, "make", name_of(hierarchy, directory));
    made_.emplace_back(&hierarchy, directory);
    fill_cpuset(hierarchy, directory);
  }
  return is_new;
}

// A new cgroup v1 cpuset is empty and takes no task.
void Restorer::fill_cpuset(const Hierarchy& hierarchy, const std::string& path) const {
  if (std::find(hierarchy.controllers.begin(), hierarchy.controllers.end(), "cpuset") ==
      hierarchy.controllers.end())
    return;
  const std::string above = path.substr(0, std::max<size_t>(path.rfind('/'), 1));
  for (const char* file : {"cpuset.cpus", "cpuset.mems"})
    if (read_value(hierarchy, path, file).empty())
      kernel::must(try_write(hierarchy, path, file, read_value(hierarchy, above, file)), "fill",
                   name_of(hierarchy, path));
}

void Restorer::make_tree(const Hierarchy& hierarchy, const std::string& path,
                         const image::CgroupDirEntry& directory, int depth) {
  check_path(path);
  if (depth > deepest) throw image::bad_image("cgroup", -1, "directories are nested too deeply");
  const bool is_new = make(hierarchy, path);
  if (is_new && directory.has_dir_perms()) {
    const image::CgroupPerms& perms = directory.dir_perms();
    UniqueFd made =
        kernel::open_in(hierarchy.root.get(), relative(path), O_RDONLY | O_DIRECTORY, resolve);
    kernel::must(kernel::call(SYS_fchown, made.get(), perms.uid(), perms.gid()), "give away",
                 name_of(hierarchy, path));
    kernel::must(kernel::call(SYS_fchmod, made.get(), perms.mode() & 07777u), "set the mode of",
                 name_of(hierarchy, path));
  }
  for (const std::string& allowed : properties(hierarchy))
    for (const image::CgroupPropEntry& property : directory.properties()) {
      if (property.name() != allowed) continue;
      const bool control = allowed == "cgroup.subtree_control";
      if (!is_new && !control) continue;
      Property wanted{&hierarchy, path, allowed, property.value()};
      // Controllers can be handed down only once no task is left in between.
      if (hierarchy.v2() && allowed != "cgroup.type")
        deferred_.push_back(std::move(wanted));
      else
        apply(wanted);
    }
  for (const image::CgroupDirEntry& child : directory.children()) {
    if (child.dir_name().find('/') != std::string::npos)
      throw image::bad_image("cgroup", -1, "dir_name \"" + child.dir_name() + "\" has a slash");
    make_tree(hierarchy, join(path, child.dir_name()), child, depth + 1);
  }
}

void Restorer::apply(const Property& property) const {
  std::string value = property.value;
  if (property.name == "cgroup.subtree_control") {
    value.clear();
    for (std::string_view controller : text::words(property.value))
      value.append(value.empty() ? "+" : " +").append(controller);
  }
  if (property.name == "cgroup.type" && value != "threaded") return;
  if (value.empty()) return;
  long result = try_write(*property.hierarchy, property.path, property.name, value);
  if (result < 0)
    log_.warn("{}: can't set {} to {}: {}", name_of(*property.hierarchy, property.path),
              property.name, value, strerror(static_cast<int>(-result)));
}

void Restorer::leave() {
  for (const Hierarchy& hierarchy : hierarchies_.all()) {
    const Member* ours = find(engine_, hierarchy);
    const Member* parents = find(parent_, hierarchy);
    if (!ours || !parents || ours->path == parents->path || ours->path == "/") continue;
    bool in_the_way = false;
    for (const auto& [id, places] : sets_)
      for (const Place& place : places)
        in_the_way =
            in_the_way || (place.hierarchy == &hierarchy &&
                           (is_below(place.path, ours->path) || is_below(ours->path, place.path)));
    if (!in_the_way) continue;
    long result = try_write(hierarchy, parents->path, "cgroup.procs", "0");
    if (result < 0) {
      log_.warn("Can't leave {}: {}", name_of(hierarchy, ours->path),
                strerror(static_cast<int>(-result)));
      continue;
    }
    for (Member& member : engine_)
      if (member.name == hierarchy.name) member.path = parents->path;
  }
}

uint32_t Restorer::root_set() const {
  const image::CoreEntry& core = checkpoint_.root().threads.front();
  return core.thread_core().has_cg_set() ? core.thread_core().cg_set() : core.tc().cg_set();
}

const std::vector<Restorer::Place>* Restorer::places(uint32_t set) const {
  if (set == 0 || set == checkpoint_.inventory.root_cg_set() || sets_.empty()) return nullptr;
  auto found = sets_.find(set);
  if (found == sets_.end())
    throw image::bad_image("cgroup", -1, fmt::format("no set has id {}", set));
  return &found->second;
}

bool Restorer::own_namespace() const { return (checkpoint_.namespaces() & CLONE_NEWCGROUP) != 0; }

void Restorer::place_root(pid_t pid) const {
  const std::vector<Place>* root = places(root_set());
  if (!root) return;
  for (const Place& place : *root) {
    // The namespace's root is wherever its maker is when it makes it.
    const std::string& first = own_namespace() && !place.outer.empty() ? place.outer : place.path;
    // Inherited already, where the caller had put us into it.
    const Member* here = find(engine_, *place.hierarchy);
    if (!here || here->path != first) move(*place.hierarchy, first, "cgroup.procs", pid);
  }
}

void Restorer::make_namespace() const {
  if (own_namespace())
    kernel::must(kernel::call(SYS_unshare, CLONE_NEWCGROUP), "make", "a cgroup namespace");
}

void Restorer::enter(uint32_t set, pid_t pid) const {
  if (const auto* all = places(set))
    for (const Place& place : *all) move(*place.hierarchy, place.path, "cgroup.procs", pid);
}

void Restorer::enter_thread(uint32_t set, pid_t tid) const {
  const auto* all = places(set);
  if (!all) return;
  for (const Place& place : *all) {
    const char* file = place.hierarchy->v2() ? "cgroup.threads" : "tasks";
    long result = try_write(*place.hierarchy, place.path, file, std::to_string(tid));
    // In v2 all threads are in their leader's cgroup, unless it is a threaded one.
    if (place.hierarchy->v2() && result == -EOPNOTSUPP) continue;
    kernel::must(result, "enter", name_of(*place.hierarchy, place.path));
  }
}

void Restorer::commit() {
  for (const Property& property : deferred_) apply(property);
  committed_ = true;
}

}  // namespace stasis::engine::cgroup
