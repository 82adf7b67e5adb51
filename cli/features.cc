#include "cli/features.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <linux/capability.h>
#include <linux/ptrace.h>
#include <linux/sched.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/scope_exit.h"
#include "kernel/call.h"
#include "kernel/directories.h"
#include "kernel/fs.h"
#include "kernel/proc_status.h"
#include "mountmap/mount_table.h"

namespace stasis::cli {
namespace {

using kernel::call;

// Newer than the headers of Debian 12.
constexpr long nr_statmount = 457, nr_listmount = 458;
constexpr unsigned move_mount_set_group = 0x100;
constexpr unsigned long pagemap_scan = 0xc0606610;  // _IOWR('f', 16, struct pm_scan_arg)
constexpr uint64_t uffd_wp_async = 1 << 15;

// A call with senseless arguments: ENOSYS is the only "no".
template <typename... Args>
bool exists(long nr, Args... args) {
  return call(nr, args...) != -ENOSYS;
}

// clone3 looks at the size of its argument first (E2BIG: doesn't know set_tid),
// then at set_tid without a size (EINVAL: knows it).
bool has_set_tid() {
  clone_args args{};
  args.set_tid = 1;
  return call(SYS_clone3, &args, sizeof args) == -EINVAL;
}

// Flags are looked at before descriptors, but after privileges.
bool has_set_group() {
  long result = call(SYS_move_mount, -1, "", -1, "", move_mount_set_group | 0x44);
  return result != -EINVAL && result != -ENOSYS;
}

bool has_pagemap_scan() {
  UniqueFd pagemap = kernel::open("/proc/self/pagemap", O_RDONLY);
  uint64_t arg[12] = {};
  return call(SYS_ioctl, pagemap.get(), pagemap_scan, arg) != -ENOTTY;
}

struct Userfaultfd {
  bool present = false, wp_async = false;
};

Userfaultfd probe_userfaultfd() {
  UniqueFd fd(static_cast<int>(call(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY)));
  if (!fd) return {};
  uffdio_api api{};
  api.api = UFFD_API;
  bool wp = call(SYS_ioctl, fd.get(), UFFDIO_API, &api) == 0 && (api.features & uffd_wp_async);
  return {true, wp};
}

struct Ptrace {
  bool seize = false, suspend_seccomp = false, rseq = false;
};

// These three need a tracee: a child that only waits to be killed.
Ptrace probe_ptrace() {
  Ptrace result;
  pid_t child = static_cast<pid_t>(kernel::must(call(SYS_fork), "make", "a process to trace"));
  if (child == 0)
    for (;;) pause();
  ScopeExit reap([&] {
    call(SYS_kill, child, SIGKILL);
    call(SYS_wait4, child, 0, __WALL, 0);
  });
  if (call(SYS_ptrace, PTRACE_SEIZE, child, 0, PTRACE_O_EXITKILL) < 0) return result;
  result.seize = true;
  call(SYS_ptrace, PTRACE_INTERRUPT, child, 0, 0);
  call(SYS_wait4, child, 0, __WALL, 0);
  result.suspend_seccomp = call(SYS_ptrace, PTRACE_SETOPTIONS, child, 0,
                                PTRACE_O_SUSPEND_SECCOMP | PTRACE_O_EXITKILL) != -EINVAL;
  ptrace_rseq_configuration rseq{};
  result.rseq = call(SYS_ptrace, PTRACE_GET_RSEQ_CONFIGURATION, child, sizeof rseq, &rseq) >= 0;
  return result;
}

void add_cgroups(std::vector<Feature>& features) {
  bool v1 = false, v2 = false;
  for (const mountmap::Mount& mount : mountmap::MountTable::read(getpid()).mounts()) {
    if (mount.fstype == "cgroup2") v2 = true;
    if (mount.fstype == "cgroup" && kernel::exists(mount.mountpoint + "/release_agent") &&
        mount.sb_options.find("freezer") != std::string::npos)
      v1 = true;
  }
  features.push_back({"cgroup v1 freezer", v1, false,
                      v2 ? "nothing: the v2 freezer serves" : "busy containers freeze slower"});
  features.push_back({"cgroup v2", v2, false,
                      v1 ? "nothing: the v1 freezer serves" : "busy containers freeze slower"});
}

struct CapabilityName {
  int number;
  const char* name;
  bool required;
  const char* cost;
};

constexpr auto capabilities = std::to_array<CapabilityName>({
    {CAP_SYS_ADMIN, "CAP_SYS_ADMIN", true, "no namespaces, no mounts: nothing works"},
    {CAP_SYS_PTRACE, "CAP_SYS_PTRACE", true, "processes can't be examined"},
    {CAP_CHECKPOINT_RESTORE, "CAP_CHECKPOINT_RESTORE", false,
     "nothing as long as CAP_SYS_ADMIN is there"},
    {CAP_CHOWN, "CAP_CHOWN", true, "owners of files in a tmpfs are lost"},
    {CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE", true, "files of other users can't be opened"},
    {CAP_SETUID, "CAP_SETUID", true, "processes of other users can't be restored"},
    {CAP_SETGID, "CAP_SETGID", true, "groups can't be restored"},
    {CAP_SETPCAP, "CAP_SETPCAP", true, "capabilities can't be restored"},
    {CAP_KILL, "CAP_KILL", true, "processes of other users can't be stopped"},
    {CAP_SYS_CHROOT, "CAP_SYS_CHROOT", true, "the root directory can't be changed"},
    {CAP_NET_ADMIN, "CAP_NET_ADMIN", true, "network interfaces can't be restored"},
    {CAP_MKNOD, "CAP_MKNOD", false, "device nodes in a tmpfs can't be restored"},
    {CAP_AUDIT_CONTROL, "CAP_AUDIT_CONTROL", false, "login uids stay as they are here"},
    {CAP_SYS_RESOURCE, "CAP_SYS_RESOURCE", false,
     "limits above our own hard limits and a lower oom_score_adj can't be restored"},
});

void add_capabilities(std::vector<Feature>& features) {
  uint64_t effective = kernel::parse_status(kernel::read_file("/proc/self/status")).cap_effective;
  for (const CapabilityName& capability : capabilities)
    features.push_back({capability.name, ((effective >> capability.number) & 1) != 0,
                        capability.required, capability.cost});
}

}  // namespace

std::vector<Feature> probe_features() {
  Userfaultfd uffd = probe_userfaultfd();
  Ptrace ptrace = probe_ptrace();
  std::vector<Feature> features = {
      {"pidfd_getfd", exists(SYS_pidfd_getfd, -1, -1, 0), true,
       "descriptors can't be examined from outside: no dump"},
      {"clone3 with set_tid", has_set_tid(), true, "processes can't get their pids back"},
      {"time namespaces", kernel::exists("/proc/self/ns/time_for_children"), false,
       "monotonic clocks jump at a restore on another boot or machine"},
      {"listmount, statmount",
       exists(nr_statmount, nullptr, nullptr, 0, 0) && exists(nr_listmount, nullptr, nullptr, 0, 0),
       false, "mount tables are read from mountinfo: slower, no unique mount ids"},
      {"open_tree, move_mount, fsopen",
       exists(SYS_open_tree, -1, nullptr, ~0U) && exists(SYS_move_mount, -1, "", -1, "", ~0U) &&
           exists(SYS_fsopen, nullptr, ~0U),
       true, "mount trees can't be rebuilt"},
      {"mount_setattr", exists(SYS_mount_setattr, -1, nullptr, ~0U, nullptr, 0), true,
       "flags and propagation of mounts can't be restored"},
      {"MOVE_MOUNT_SET_GROUP", has_set_group(), false,
       "containers with shared or slave mounts can't be restored"},
      {"PAGEMAP_SCAN", has_pagemap_scan(), false, "memory is scanned through pagemap: slower"},
      {"userfaultfd", uffd.present, false, "pages are filled by writing: slower restores"},
      {"userfaultfd WP_ASYNC", uffd.wp_async, false, "no memory tracking between two dumps"},
      {"PTRACE_SEIZE", ptrace.seize, true, "processes can't be stopped"},
      {"PTRACE_GET_RSEQ_CONFIGURATION", ptrace.rseq, false,
       "programs that use rseq (glibc 2.35 and newer) can't be dumped"},
      {"PTRACE_O_SUSPEND_SECCOMP", ptrace.suspend_seccomp, false,
       "containers with seccomp filters can't be dumped"},
  };
  add_cgroups(features);
  add_capabilities(features);
  return features;
}

}  // namespace stasis::cli
