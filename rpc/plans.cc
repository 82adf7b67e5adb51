#include "rpc/plans.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <set>
#include <utility>
#include <vector>

#include "base/text.h"
#include "kernel/fs.h"
#include "rpc/externals.h"
#include "rpc/mount_plan.h"

namespace stasis::rpc {
namespace {

// What both directions refuse.
void check_common(const Options& opts) {
  if (opts.lazy_pages()) throw unsupported("lazy_pages", "ask without lazy pages");
  if (opts.has_ps()) throw unsupported("a page server", "copy the image directory instead");
  if (opts.exec_cmd_size() > 0) throw unsupported("exec_cmd", "run the command afterwards");
  if (opts.has_cgroup_props() || opts.has_cgroup_props_file() ||
      opts.cgroup_dump_controller_size() > 0)
    throw unsupported("cgroup_props or cgroup_dump_controller", "ask for all of the cgroups");
  check_externals(opts);
  if ((opts.empty_ns() & ~static_cast<uint32_t>(CLONE_NEWNET)) != 0)
    throw Error("leave namespaces empty", fmt::format("{:#x}", opts.empty_ns()))
        .because("only the network namespace can be");
}

bool manages_cgroups(const Options& opts) {
  if (opts.has_manage_cgroups_mode()) return opts.manage_cgroups_mode() != IGNORE;
  return opts.manage_cgroups();
}

std::map<uint64_t, std::string> external_namespaces(const Options& opts) {
  std::map<uint64_t, std::string> result;
  for (const std::string& text : opts.external()) {
    External external = parse_external(text);
    if (!is_namespace(external.kind)) continue;
    auto inode = text::to_int<uint64_t>(external.id);
    if (!inode) throw Error("understand", "external " + text).because("expected TYPE[INODE]:KEY");
    result[*inode] = external.value;
  }
  return result;
}

// Those whose peer may be outside, by inode.
std::set<uint32_t> external_unix(const Options& opts) {
  std::set<uint32_t> result;
  for (const External& external : externals(opts, "unix")) {
    auto inode = text::to_int<uint32_t>(external.id);
    if (!inode)
      throw Error("understand", "external unix[" + external.id + "]")
          .because("expected unix[INODE]");
    result.insert(*inode);
  }
  for (const UnixSocket& socket : opts.unix_sk_ino()) result.insert(socket.inode());
  return result;
}

void plan_alike(const Options& opts, engine::CommonPlan& plan) {
  plan.shell_job = opts.shell_job();
  plan.tcp_established = opts.tcp_established();
  plan.tcp_close = opts.tcp_close();
  plan.skip_network_lock = opts.network_lock() == SKIP;
  plan.file_locks = opts.file_locks();
  plan.ext_unix_sk = opts.ext_unix_sk();
  plan.orphan_pts_master = opts.orphan_pts_master();
  plan.manage_cgroups = manages_cgroups(opts);
  plan.empty_netns = (opts.empty_ns() & CLONE_NEWNET) != 0;
}

}  // namespace

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
  plan_mounts(opts, rule, log, plan);
  plan.external_namespaces = external_namespaces(opts);
  plan.external_unix = external_unix(opts);
  plan.leave_running = opts.leave_running();
  plan_alike(opts, plan);
  plan.skip_in_flight = opts.tcp_skip_in_flight();
  plan.ghost_limit = opts.ghost_limit();
  return plan;
}

engine::RestorePlan restore_plan(const Options& opts, Keys rule) {
  check_common(opts);
  if (opts.join_ns_size() > 0)
    throw unsupported("join_ns", "let the container have that namespace for itself");
  if (opts.veths_size() > 0 && (opts.empty_ns() & CLONE_NEWNET) == 0)
    throw unsupported("veths", "let the runtime connect the network (empty_ns)");

  engine::RestorePlan plan;
  // Without one, a process tree that only had a mount namespace of its own.
  plan.root = opts.has_root() ? opts.root() : "/";
  plan_mounts(opts, rule, plan);
  for (const InheritFd& inherited : opts.inherit_fd()) {
    kernel::must(kernel::call(SYS_fcntl, inherited.fd(), F_GETFD), "use the inherited descriptor",
                 fmt::format("{} ({})", inherited.fd(), inherited.key()));
    plan.inherited_fds[inherited.key()] = inherited.fd();
  }
  for (const CgroupRoot& root : opts.cg_root()) plan.cgroup_roots[root.ctrl()] = root.path();
  plan.sibling = opts.rst_sibling();
  plan_alike(opts, plan);
  if (plan.shell_job && isatty(STDIN_FILENO)) plan.terminal = STDIN_FILENO;
  plan.orphan_pts_master = opts.orphan_pts_master() && opts.notify_scripts();
  plan.lsm_profile = opts.lsm_profile();
  plan.lsm_mount_context = opts.lsm_mount_context();
  return plan;
}

}  // namespace stasis::rpc
