#include "engine/namespaces/cgroup_tree.h"

#include <fmt/core.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "base/text.h"
#include "kernel/fs.h"
#include "kernel/proc_misc.h"
#include "mountmap/mount_table.h"

namespace stasis::engine::cgroup {
namespace {

std::vector<std::string> parts(std::string_view name) {
  std::vector<std::string> result;
  for (std::string_view part : text::split(name, ',')) result.emplace_back(part);
  std::sort(result.begin(), result.end());
  return result;
}

bool holds_root_of(const mountmap::Mount& mount, const Hierarchy& hierarchy) {
  if (mount.root != "/") return false;
  if (hierarchy.v2()) return mount.fstype == "cgroup2";
  if (mount.fstype != "cgroup") return false;
  const std::vector<std::string> options = parts(mount.sb_options);
  return std::includes(options.begin(), options.end(), hierarchy.controllers.begin(),
                       hierarchy.controllers.end());
}

// The mount may be covered by another: what is reached by its path counts.
std::optional<UniqueFd> open_mounted(const mountmap::MountTable& table,
                                     const Hierarchy& hierarchy) {
  for (const mountmap::Mount& mount : table.mounts()) {
    if (!holds_root_of(mount, hierarchy)) continue;
    long fd = kernel::call(SYS_openat, AT_FDCWD, mount.mountpoint.c_str(),
                           O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) continue;
    UniqueFd root(static_cast<int>(fd));
    const struct statx found = kernel::stat_fd(root.get());
    if (found.stx_dev_major == mount.major && found.stx_dev_minor == mount.minor) return root;
  }
  return std::nullopt;
}

// A mount of our own that nobody sees. Only of an existing hierarchy: mounting
// v1 controllers that are in none would take them away from v2.
UniqueFd mount_unseen(const Hierarchy& hierarchy) {
  const std::string subject = hierarchy.v2() ? "cgroup v2" : "cgroup " + hierarchy.name;
  auto must = [&](long result) { return static_cast<int>(kernel::must(result, "mount", subject)); };
  UniqueFd context(
      must(kernel::call(SYS_fsopen, hierarchy.v2() ? "cgroup2" : "cgroup", FSOPEN_CLOEXEC)));
  for (const std::string& controller : hierarchy.controllers) {
    constexpr std::string_view named = "name=";
    if (controller.starts_with(named))
      must(kernel::call(SYS_fsconfig, context.get(), FSCONFIG_SET_STRING, "name",
                        controller.c_str() + named.size(), 0));
    else if (!controller.empty())
      must(kernel::call(SYS_fsconfig, context.get(), FSCONFIG_SET_FLAG, controller.c_str(), nullptr,
                        0));
  }
  must(kernel::call(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0));
  return UniqueFd(must(kernel::call(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, 0)));
}

}  // namespace

Hierarchies::Hierarchies() {
  const auto table = mountmap::MountTable::parse(kernel::read_file("/proc/self/mountinfo"));
  for (const auto& line : kernel::parse_cgroup(kernel::read_file("/proc/self/cgroup"))) {
    Hierarchy hierarchy{line.controllers, parts(line.controllers), {}};
    auto mounted = open_mounted(table, hierarchy);
    hierarchy.root = mounted ? std::move(*mounted) : mount_unseen(hierarchy);
    all_.push_back(std::move(hierarchy));
  }
}

const Hierarchy* Hierarchies::find(std::string_view name) const {
  const std::vector<std::string> wanted = parts(name);
  for (const Hierarchy& hierarchy : all_)
    if (hierarchy.controllers == wanted) return &hierarchy;
  return nullptr;
}

Membership parse_membership(std::string_view text, std::string_view subject) {
  Membership members;
  for (auto& line : kernel::parse_cgroup(text)) {
    const std::string where = line.controllers.empty() ? "cgroup v2" : "cgroup " + line.controllers;
    if (line.path.ends_with(" (deleted)"))
      throw Error("find the cgroups of", std::string(subject))
          .because(where + " " + line.path + ": it was removed while in use");
    if (line.path.starts_with("/.."))
      throw Error("find the cgroups of", std::string(subject))
          .because(where + " " + line.path + " lies outside our own cgroup namespace")
          .hint("run stasis in the host's cgroup namespace");
    members.push_back({std::move(line.controllers), std::move(line.path), 0});
  }
  std::sort(members.begin(), members.end(),
            [](const Member& a, const Member& b) { return a.name < b.name; });
  return members;
}

void set_prefixes(Membership& members, std::string_view inside) {
  for (const auto& line : kernel::parse_cgroup(inside)) {
    for (Member& member : members) {
      if (member.name != line.controllers || member.path == line.path) continue;
      // "/a/b/c" seen as "/c" has its namespace's root at "/a/b".
      std::string_view seen = line.path == "/" ? std::string_view() : std::string_view(line.path);
      if (!member.path.ends_with(seen))
        throw Error("find the root of", "the cgroup namespace")
            .because(fmt::format("cgroup {} {} is seen as {} inside", member.name, member.path,
                                 line.path));
      member.prefix = member.path.size() - seen.size();
    }
  }
}

bool is_below(std::string_view path, std::string_view directory) {
  if (directory == "/") return true;
  return path.starts_with(directory) &&
         (path.size() == directory.size() || path[directory.size()] == '/');
}

std::string common_directory(std::string_view a, std::string_view b) {
  std::string_view shared = a;
  while (!is_below(b, shared)) {
    size_t slash = shared.rfind('/');
    shared = slash == 0 || slash == std::string_view::npos ? "/" : shared.substr(0, slash);
  }
  return std::string(shared);
}

std::string join(std::string_view directory, std::string_view rest) {
  std::string path(directory == "/" ? "" : directory);
  if (!rest.empty() && rest != "/") path.append(rest.front() == '/' ? "" : "/").append(rest);
  return path.empty() ? "/" : path;
}

const std::vector<std::string>& properties(const Hierarchy& hierarchy) {
  static const std::vector<std::string> v1 = {
      "cgroup.clone_children", "cpuset.cpus",      "cpuset.mems",           "cpu.shares",
      "cpu.cfs_period_us",     "cpu.cfs_quota_us", "memory.limit_in_bytes", "pids.max",
      "blkio.weight",
  };
  static const std::vector<std::string> v2 = {
      "cgroup.type",
      "cgroup.subtree_control",
      "cgroup.max.descendants",
      "cgroup.max.depth",
      "cpuset.cpus",
      "cpuset.mems",
      "cpu.weight",
      "cpu.max",
      "io.weight",
      "memory.min",
      "memory.low",
      "memory.high",
      "memory.max",
      "memory.swap.max",
      "pids.max",
  };
  return hierarchy.v2() ? v2 : v1;
}

std::string relative(std::string_view path) {
  return path == "/" ? "." : std::string(path.substr(1));
}

void check_path(std::string_view path) {
  auto bad = [&] {
    return Error("use", "cgroup path \"" + std::string(path) + '"')
        .because("it isn't an absolute path of plain names");
  };
  if (!path.starts_with('/')) throw bad();
  if (path == "/") return;
  for (std::string_view part : text::split(path.substr(1), '/'))
    if (part.empty() || part == "." || part == ".." || part.size() > 255 ||
        part.find('\0') != std::string_view::npos)
      throw bad();
}

}  // namespace stasis::engine::cgroup
