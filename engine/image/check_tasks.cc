// The process tree and each thread's state.
#include <unordered_set>

#include "engine/image/check.h"

namespace stasis::image {
namespace {

constexpr int signals = 64;
constexpr int settable_signals = signals - 2;  // not SIGKILL, SIGSTOP
constexpr size_t siginfo_size = 128;
constexpr size_t comm_length = 15;
constexpr int group_limit = 65536;

// `size` elements or, where `optional`, none.
void expect_size(const std::string& stem, const char* field, int size, int wanted, bool optional) {
  expect(size == wanted || (optional && size == 0), stem, -1, "{}: {} elements instead of {}",
         field, size, wanted);
}

void check_fpregs(const std::string& stem, const UserX86FpregsEntry& fpu) {
  expect_size(stem, "fpregs.st_space", fpu.st_space_size(), 32, false);
  expect_size(stem, "fpregs.xmm_space", fpu.xmm_space_size(), 64, false);
  const UserX86XsaveEntry& xsave = fpu.xsave();
  expect_size(stem, "xsave.ymmh_space", xsave.ymmh_space_size(), 64, true);
  expect_size(stem, "xsave.bndreg_state", xsave.bndreg_state_size(), 8, true);
  expect_size(stem, "xsave.bndcsr_state", xsave.bndcsr_state_size(), 8, true);
  expect_size(stem, "xsave.opmask_reg", xsave.opmask_reg_size(), 8, true);
  expect_size(stem, "xsave.zmm_upper", xsave.zmm_upper_size(), 64, true);
  expect_size(stem, "xsave.hi16_zmm", xsave.hi16_zmm_size(), 128, true);
  expect_size(stem, "xsave.pkru", xsave.pkru_size(), 2, true);
}

void check_registers(const std::string& stem, const CoreEntry& core) {
  expect(core.mtype() == CoreEntry::X86_64, stem, -1, "made on {}, this is X86_64",
         CoreEntry::March_Name(core.mtype()));
  expect(core.has_thread_info(), stem, -1, "no thread_info");
  const UserX86RegsEntry& regs = core.thread_info().gpregs();
  expect(regs.mode() == NATIVE, stem, -1, "a 32-bit task; only 64-bit ones can be restored");
  expect(regs.fs_base() < user_end && regs.gs_base() < user_end, stem, -1,
         "gpregs: a segment base outside user space");
  check_fpregs(stem, core.thread_info().fpregs());
}

void check_signals(const std::string& stem, const SignalQueueEntry& queue) {
  for (const SiginfoEntry& signal : queue.signals())
    expect(signal.siginfo().size() == siginfo_size, stem, -1, "a siginfo of {} bytes",
           signal.siginfo().size());
}

void check_creds(const std::string& stem, const CredsEntry& creds) {
  expect_size(stem, "creds.cap_inh", creds.cap_inh_size(), 2, false);
  expect_size(stem, "creds.cap_prm", creds.cap_prm_size(), 2, false);
  expect_size(stem, "creds.cap_eff", creds.cap_eff_size(), 2, false);
  expect_size(stem, "creds.cap_bnd", creds.cap_bnd_size(), 2, false);
  expect_size(stem, "creds.cap_amb", creds.cap_amb_size(), 2, true);
  expect(creds.groups_size() <= group_limit, stem, -1, "creds.groups: {} groups",
         creds.groups_size());
}

void check_seccomp(const Checkpoint& image, const std::string& stem, const ThreadCoreEntry& core) {
  if (core.seccomp_mode() != filter) return;
  int count = image.seccomp ? image.seccomp->seccomp_filters_size() : 0;
  expect(core.has_seccomp_filter() && core.seccomp_filter() < static_cast<uint32_t>(count), stem,
         -1, "seccomp_filter {} is not in seccomp.img, which has {}", core.seccomp_filter(), count);
}

void check_cgroup_set(const Checkpoint& image, const std::string& stem, uint32_t set) {
  if (set == no_cgroup_set || set == image.inventory.root_cg_set() || !image.cgroup) return;
  for (const CgSetEntry& known : image.cgroup->sets())
    if (known.id() == set) return;
  expect(false, stem, -1, "cg_set {} is not in cgroup.img", set);
}

void check_thread(const Checkpoint& image, uint32_t tid, const CoreEntry& core) {
  std::string stem = stem_of("core", tid);
  check_registers(stem, core);
  expect(core.has_thread_core(), stem, -1, "no thread_core");
  const ThreadCoreEntry& thread = core.thread_core();
  expect(thread.has_creds(), stem, -1, "no creds");
  expect(thread.comm().size() <= comm_length, stem, -1, "comm: longer than {}", comm_length);
  expect(thread.pdeath_sig() <= signals, stem, -1, "pdeath_sig {}", thread.pdeath_sig());
  expect(thread.sched_nice() >= -20 && thread.sched_nice() <= 19, stem, -1, "sched_nice {}",
         thread.sched_nice());
  check_creds(stem, thread.creds());
  check_signals(stem, thread.signals_p());
  check_seccomp(image, stem, thread);
  check_cgroup_set(image, stem, thread.cg_set());
}

void check_itimer(const std::string& stem, const char* name, const ItimerEntry& timer) {
  expect(timer.iusec() < 1'000'000 && timer.vusec() < 1'000'000, stem, -1,
         "timers.{}: a million microseconds or more", name);
}

void check_timers(const std::string& stem, const PstreeEntry& tree, const TaskTimersEntry& timers) {
  check_itimer(stem, "real", timers.real());
  check_itimer(stem, "virt", timers.virt());
  check_itimer(stem, "prof", timers.prof());
  std::unordered_set<uint32_t> ids;
  for (const PosixTimerEntry& timer : timers.posix()) {
    uint32_t id = timer.it_id();
    expect(ids.insert(id).second && id <= INT32_MAX, stem, -1, "timers.posix: id {} again", id);
    expect(timer.insec() < nsec_per_sec && timer.vnsec() < nsec_per_sec, stem, -1,
           "timers.posix {}: a billion nanoseconds or more", id);
    expect(timer.si_signo() <= signals, stem, -1, "timers.posix {}: signal {}", id,
           timer.si_signo());
    if (!timer.has_notify_thread_id() || timer.notify_thread_id() == 0) continue;
    bool known = false;
    for (uint32_t tid : tree.threads())
      known |= static_cast<int64_t>(tid) == timer.notify_thread_id();
    expect(known, stem, -1, "timers.posix {}: tells thread {}, which is no thread of process {}",
           id, timer.notify_thread_id(), tree.pid());
  }
}

void check_process(const TaskImage& task) {
  std::string stem = stem_of("core", task.tree.pid());
  const TaskCoreEntry& core = task.core();
  expect(core.comm().size() <= comm_length, stem, -1, "comm: longer than {}", comm_length);
  expect(core.sigactions_size() == settable_signals, stem, -1, "{} sigactions instead of {}",
         core.sigactions_size(), settable_signals);
  for (const SaEntry& action : core.sigactions())
    expect(!action.compat_sigaction(), stem, -1, "a 32-bit signal handler");
  expect(core.rlimits().rlimits_size() <= 16, stem, -1, "{} rlimits",
         core.rlimits().rlimits_size());
  for (const RlimitEntry& limit : core.rlimits().rlimits())
    expect(limit.cur() <= limit.max(), stem, -1, "rlimits: {} above its maximum {}", limit.cur(),
           limit.max());
  expect(core.stop_signo() <= signals, stem, -1, "stop_signo {}", core.stop_signo());
  expect(core.oom_score_adj() >= -1000 && core.oom_score_adj() <= 1000, stem, -1,
         "oom_score_adj {}", core.oom_score_adj());
  check_signals(stem, core.signals_s());
  if (core.has_timers()) check_timers(stem, task.tree, core.timers());
}

// Of namespaces below the container's own only those of mounts can be made again yet.
void check_namespace_ids(const Checkpoint& image, const TaskImage& task) {
  const TaskKobjIdsEntry &own = task.ids, &root = image.root().ids;
  auto same = [&](const char* kind, uint32_t ours, uint32_t roots) {
    expect(ours == roots, stem_of("ids", task.tree.pid()), -1,
           "process {} is in a {} namespace of its own; only one of a container is supported",
           task.tree.pid(), kind);
  };
  same("pid", own.pid_ns_id(), root.pid_ns_id());
  same("network", own.net_ns_id(), root.net_ns_id());
  same("ipc", own.ipc_ns_id(), root.ipc_ns_id());
  same("uts", own.uts_ns_id(), root.uts_ns_id());
  if (!image.mounts.count(root.mnt_ns_id())) same("mount", own.mnt_ns_id(), root.mnt_ns_id());
  same("user", own.user_ns_id(), root.user_ns_id());
  same("cgroup", own.cgroup_ns_id(), root.cgroup_ns_id());
  same("time", own.time_ns_id(), root.time_ns_id());
}

}  // namespace

void check_tree(const std::vector<PstreeEntry>& tree, const Limits& limits) {
  expect(!tree.empty(), "pstree", -1, "has no process");
  expect(tree.size() <= limits.tasks, "pstree", -1, "{} processes, at most {} are believed",
         tree.size(), limits.tasks);
  std::unordered_set<uint32_t> processes, threads;
  for (size_t i = 0; i < tree.size(); ++i) {
    const PstreeEntry& entry = tree[i];
    auto at = static_cast<int64_t>(i);
    uint32_t pid = entry.pid();
    expect(pid > 0 && pid < pid_limit, "pstree", at, "pid {}", pid);
    expect(processes.insert(pid).second, "pstree", at, "pid {} again", pid);
    expect(i == 0 ? entry.ppid() == 0 : processes.count(entry.ppid()) && entry.ppid() != pid,
           "pstree", at, "pid {}: parent {} {}", pid, entry.ppid(),
           i == 0 ? "of the first process" : "comes not before it");
    expect(entry.pgid() < pid_limit && entry.sid() < pid_limit, "pstree", at,
           "pid {}: group {}, session {}", pid, entry.pgid(), entry.sid());
    bool has_leader = false;
    for (uint32_t tid : entry.threads()) {
      expect(tid > 0 && tid < pid_limit, "pstree", at, "pid {}: thread {}", pid, tid);
      expect(threads.insert(tid).second, "pstree", at, "pid {}: thread {} again", pid, tid);
      has_leader |= tid == pid;
    }
    expect(has_leader, "pstree", at, "pid {} is not among its threads", pid);
    expect(threads.size() <= limits.tasks, "pstree", at, "more than {} threads", limits.tasks);
  }
}

void check_task(const Checkpoint& image, const TaskImage& task) {
  std::string stem = stem_of("core", task.tree.pid());
  if (task.dead()) {
    expect(task.threads.size() == 1, stem, -1, "a dead process with threads");
    return;
  }
  expect(task.core().task_state() == task_alive || task.stopped(), stem, -1, "task_state {}",
         task.core().task_state());
  check_process(task);
  for (int i = 0; i < task.tree.threads_size(); ++i)
    check_thread(image, task.tree.threads(i), task.threads[static_cast<size_t>(i)]);
  check_namespace_ids(image, task);
}

void check_instructions(const Checkpoint& image) {
  constexpr std::string_view plain = "abcdefghijklmnopqrstuvwxyz0123456789_";
  constexpr int most = 256;
  constexpr size_t longest = 32;
  if (!image.more) return;
  expect(image.more->instructions_size() <= most, "stasis", -1, "instructions {}",
         image.more->instructions_size());
  for (const std::string& name : image.more->instructions())
    expect(name.size() <= longest && name.find_first_not_of(plain) == name.npos, "stasis", -1,
           "an instruction of a strange name");
}

}  // namespace stasis::image
