#include "rpc/plans.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>
#include <vector>

#include "base/text.h"
#include "kernel/fs.h"
#include "kernel/proc_misc.h"
#include "mountmap/cgroup_source.h"
#include "mountmap/mount_map.h"

namespace stasis::rpc {
namespace {

using KeyList = std::vector<std::pair<std::string, std::string>>;

Error unsupported(const std::string& option, const std::string& remedy) {
  return Error("do what " + option + " asks for", "")
      .because("stasis doesn't support it yet")
      .hint(remedy);
}

// What both directions refuse.
void check_common(const Options& opts) {
  if (opts.lazy_pages()) throw unsupported("lazy_pages", "ask without lazy pages");
  if (opts.has_ps()) throw unsupported("a page server", "copy the image directory instead");
  if (opts.exec_cmd_size() > 0) throw unsupported("exec_cmd", "run the command afterwards");
  if (opts.auto_ext_mnt())
    throw unsupported("auto_ext_mnt", "name every external mount by ext_mnt or --external");
  if ((opts.empty_ns() & ~static_cast<uint32_t>(CLONE_NEWNET)) != 0)
    throw Error("leave namespaces empty", fmt::format("{:#x}", opts.empty_ns()))
        .because("only the network namespace can be");
}

bool manages_cgroups(const Options& opts) {
  if (opts.has_manage_cgroups_mode()) return opts.manage_cgroups_mode() != IGNORE;
  return opts.manage_cgroups();
}

// key -> value of all external mounts, whichever way they were named.
KeyList external_mounts(const Options& opts) {
  KeyList keys;
  for (const ExternalMount& mount : opts.ext_mnt()) keys.emplace_back(mount.key(), mount.val());
  for (const std::string& text : opts.external()) {
    External external = parse_external(text);
    if (external.kind != "mnt") continue;
    if (external.id.empty())
      throw unsupported("--external mnt[]", "name every external mount by its mount point");
    keys.emplace_back(external.id, external.value);
  }
  return keys;
}

bool is_namespace(const std::string& kind) {
  static const std::array kinds = {"net", "pid", "ipc", "uts", "user", "time", "cgroup"};
  for (const char* known : kinds)
    if (kind == known) return true;
  return false;
}

std::set<int> skipped_mounts(const Options& opts, const mountmap::MountTable& table) {
  std::set<int> ids;
  for (const std::string& path : opts.skip_mnt())
    for (const mountmap::Mount& mount : table.mounts())
      if (mount.mountpoint == path) ids.insert(mount.id);
  return ids;
}

std::map<uint64_t, std::string> external_namespaces(const Options& opts) {
  std::map<uint64_t, std::string> result;
  for (const std::string& text : opts.external()) {
    External external = parse_external(text);
    if (external.kind == "mnt") continue;
    if (!is_namespace(external.kind))
      throw unsupported("external " + text, "only mnt[...] and namespaces can be external");
    auto inode = text::to_int<uint64_t>(external.id);
    if (!inode) throw Error("understand", "external " + text).because("expected TYPE[INODE]:KEY");
    result[*inode] = external.value;
  }
  return result;
}

}  // namespace

External parse_external(const std::string& text) {
  size_t open = text.find('[');
  size_t close = text.find(']', open == text.npos ? 0 : open);
  // A path may hold brackets itself: the one that ends it stands before ":" or the end.
  while (close != text.npos && close + 1 < text.size() && text[close + 1] != ':')
    close = text.find(']', close + 1);
  if (open == text.npos || close == text.npos)
    throw Error("understand", "external " + text).because("expected TYPE[ID]:VALUE");
  External result{
      .kind = text.substr(0, open), .id = text.substr(open + 1, close - open - 1), .value = {}};
  if (close + 2 <= text.size()) result.value = text.substr(close + 2);
  return result;
}

engine::DumpPlan dump_plan(const Options& opts, Log& log, Keys rule) {
  check_common(opts);
  if (!opts.has_pid())
    throw unsupported("a request without pid", "a process can't dump itself: name another");
  if (opts.leave_stopped()) throw unsupported("leave_stopped", "use leave_running");
  if (opts.has_parent_img() || opts.track_mem())
    throw unsupported("track_mem or parent_img", "dump without a parent image");
  if (kernel::call(SYS_kill, opts.pid(), 0) == -ESRCH || opts.pid() <= 0)
    throw Error("dump", fmt::format("process {}", opts.pid())).with_errno(ESRCH);

  engine::DumpPlan plan;
  plan.root = opts.pid();
  plan.freeze_cgroup = opts.freeze_cgroup();
  plan.mounts = mountmap::MountTable::read(opts.pid());
  mountmap::KeyedMounts keyed = mountmap::external_from_keys(
      plan.mounts, mountmap::MountTable::read(getpid()), external_mounts(opts));
  if (rule == Keys::all_used && !keyed.unused.empty()) throw Error("find mount", keyed.unused[0]);
  for (const std::string& key : keyed.unused) log.info("No mount of the host stands at {}", key);
  plan.external_mounts = std::move(keyed.external);
  plan.skipped_mounts = skipped_mounts(opts, plan.mounts);
  plan.external_namespaces = external_namespaces(opts);
  plan.leave_running = opts.leave_running();
  plan.shell_job = opts.shell_job();
  plan.tcp_established = opts.tcp_established();
  plan.file_locks = opts.file_locks();
  plan.ext_unix_sk = opts.ext_unix_sk();
  plan.orphan_pts_master = opts.orphan_pts_master();
  plan.manage_cgroups = manages_cgroups(opts);
  plan.empty_netns = (opts.empty_ns() & CLONE_NEWNET) != 0;
  plan.ghost_limit = opts.ghost_limit();
  return plan;
}

engine::RestorePlan restore_plan(const Options& opts, Keys) {
  check_common(opts);
  if (opts.join_ns_size() > 0)
    throw unsupported("join_ns", "let the container have that namespace for itself");
  if (opts.veths_size() > 0 && (opts.empty_ns() & CLONE_NEWNET) == 0)
    throw unsupported("veths", "let the runtime connect the network (empty_ns)");

  engine::RestorePlan plan;
  // Without one, a process tree that only had a mount namespace of its own.
  plan.root = opts.has_root() ? opts.root() : "/";
  mountmap::MountTable host = mountmap::MountTable::read(getpid());
  auto place = kernel::parse_cgroup(kernel::read_file("/proc/self/cgroup"));
  for (auto& [key, source] : external_mounts(opts))
    plan.external_mounts[key] = mountmap::cgroup_source(host, place, source);
  for (const InheritFd& inherited : opts.inherit_fd()) {
    kernel::must(kernel::call(SYS_fcntl, inherited.fd(), F_GETFD), "use the inherited descriptor",
                 fmt::format("{} ({})", inherited.fd(), inherited.key()));
    plan.inherited_fds[inherited.key()] = inherited.fd();
  }
  for (const CgroupRoot& root : opts.cg_root()) plan.cgroup_roots[root.ctrl()] = root.path();
  plan.sibling = opts.rst_sibling();
  plan.shell_job = opts.shell_job();
  plan.tcp_established = opts.tcp_established();
  plan.file_locks = opts.file_locks();
  plan.ext_unix_sk = opts.ext_unix_sk();
  plan.orphan_pts_master = opts.orphan_pts_master() && opts.notify_scripts();
  plan.manage_cgroups = manages_cgroups(opts);
  plan.empty_netns = (opts.empty_ns() & CLONE_NEWNET) != 0;
  plan.lsm_profile = opts.lsm_profile();
  plan.lsm_mount_context = opts.lsm_mount_context();
  return plan;
}

}  // namespace stasis::rpc
