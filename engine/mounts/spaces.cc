#include "engine/mounts/spaces.h"

#include <fmt/core.h>

#include <algorithm>
#include <cerrno>
#include <map>

#include "base/text.h"
#include "kernel/fs.h"
#include "kernel/proc_misc.h"
#include "kernel/proc_stat.h"

namespace stasis::engine::mounts {

namespace {

uint64_t namespace_of(pid_t pid) {
  return kernel::parse_namespace_link(kernel::read_link(fmt::format("/proc/{}/ns/mnt", pid)),
                                      "mnt");
}

bool has_ended(pid_t pid) {
  try {
    char state = kernel::parse_stat(kernel::read_file(fmt::format("/proc/{}/stat", pid))).state;
    return state == 'Z' || state == 'X';
  } catch (const Error& error) {
    if (error.code() != ENOENT && error.code() != ESRCH) throw;
    return true;
  }
}

std::string name_of(pid_t pid) {
  std::string comm = kernel::read_file(fmt::format("/proc/{}/comm", pid));
  return fmt::format("process {} ({})", pid, text::trim(comm));
}

}  // namespace

std::vector<Space> spaces_of(const DumpPlan& plan) {
  std::vector<Space> spaces{{plan.root, &plan.mounts}};
  for (const NestedMounts& nested : plan.nested) spaces.push_back({nested.pid, &nested.mounts});
  return spaces;
}

Place find_mount(const DumpPlan& plan, int id) {
  for (const Space& space : spaces_of(plan))
    if (const mountmap::Mount* mount = space.table->find(id)) return {space, mount};
  return {};
}

std::vector<NestedMounts> find_nested(const DumpPlan& plan, const std::vector<pid_t>& pids) {
  const uint64_t root = namespace_of(plan.root);
  std::map<uint64_t, pid_t> changed_root;  // namespace -> who doesn't see the whole of it
  std::map<uint64_t, NestedMounts> seers;
  for (pid_t pid : pids) try {
      uint64_t inode = namespace_of(pid);
      if (inode == root || seers.count(inode)) continue;
      if (kernel::read_link(fmt::format("/proc/{}/root", pid)) != "/")
        changed_root.emplace(inode, pid);
      else
        seers.emplace(inode, NestedMounts{inode, pid, mountmap::MountTable::read(pid)});
    } catch (const Error& error) {
      // An ending process loses its namespaces before it is a zombie.
      if (error.code() != ENOENT && error.code() != ESRCH && !has_ended(pid)) throw;
    }
  for (auto [inode, pid] : changed_root)
    if (!seers.count(inode))
      throw Error("look at the mounts of", name_of(pid))
          .because(
              "it is in a mount namespace of its own and has changed its root directory "
              "(chroot), so that the namespace's root can't be seen")
          .hint("Let it call pivot_root instead, or chroot without unshare.");
  std::vector<NestedMounts> nested;
  nested.reserve(seers.size());
  for (auto& [inode, seen] : seers) nested.push_back(std::move(seen));
  return nested;
}

namespace {

std::string difference(const mountmap::Mount& then, const mountmap::Mount& now) {
  if (then.parent != now.parent || then.mountpoint != now.mountpoint)
    return "was moved to " + now.mountpoint;
  if (then.root != now.root) return fmt::format("shows {} now, it was {}", now.root, then.root);
  if (then.flags != now.flags || then.sb_flags != now.sb_flags || then.sb_options != now.sb_options)
    return "was mounted with other options";
  if (then.shared != now.shared || then.master != now.master || then.unbindable != now.unbindable)
    return "propagates otherwise";
  return "is another";
}

Error changed(const mountmap::Mount& mount, const std::string& how) {
  return Error("checkpoint the mount", fmt::format("{} ({})", mount.mountpoint, mount.fstype))
      .because("it " + how + "; the plan had been made before")
      .hint("Try again.");
}

}  // namespace

void check_unchanged(const DumpPlan& plan) {
  auto table = mountmap::MountTable::read(plan.root);
  const auto &then = plan.mounts.mounts(), &now = table.mounts();
  // The kernel keeps the order.
  for (size_t i = 0; i < std::max(then.size(), now.size()); ++i) {
    if (i >= then.size()) throw changed(now[i], "was mounted meanwhile");
    if (i >= now.size()) throw changed(then[i], "was unmounted meanwhile");
    if (then[i] == now[i]) continue;
    if (then[i].id == now[i].id) throw changed(now[i], difference(then[i], now[i]));
    if (!table.find(then[i].id)) throw changed(then[i], "was unmounted meanwhile");
    throw changed(now[i], "was mounted meanwhile");
  }
}

UniqueFd open_root(const Space& space) {
  return kernel::open(fmt::format("/proc/{}/root", space.pid), O_PATH | O_DIRECTORY);
}

}  // namespace stasis::engine::mounts
