#include "engine/tasks/store_task.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/membarrier.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <optional>

#include "base/text.h"
#include "engine/image/format.h"
#include "engine/tasks/credentials.h"
#include "engine/tasks/limits.h"
#include "engine/tasks/registers.h"
#include "engine/tasks/signals.h"
#include "engine/tasks/stub_site.h"
#include "engine/tasks/thread_state.h"
#include "engine/tasks/timers.h"
#include "kernel/fs.h"
#include "kernel/proc_misc.h"

namespace stasis::engine {

namespace {

constexpr int membarrier_get_registrations = 1 << 9;  // Linux 6.3 and newer

std::string lsm_label(const FrozenTask& task, const FrozenThread& thread) {
  std::string path = fmt::format("task/{}/attr/current", thread.tid);
  long fd = kernel::call(SYS_openat, task.proc.get(), path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  UniqueFd file(static_cast<int>(fd));
  char label[4096];
  long n = kernel::call(SYS_read, file.get(), label, sizeof label);  // EINVAL without an LSM
  if (n <= 0) return {};
  std::string_view text(label, static_cast<size_t>(n));
  text = text::trim(text.substr(0, text.find('\0')));
  text = text.substr(0, text.find(" ("));  // AppArmor: "profile (enforce)"
  return std::string(text == "unconfined" ? std::string_view{} : text);
}

std::vector<kernel::PosixTimer> posix_timers(const FrozenTask& task) {
  long fd = kernel::call(SYS_openat, task.proc.get(), "timers", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  UniqueFd file(static_cast<int>(fd));
  std::vector<kernel::PosixTimer> timers =
      kernel::parse_timers(kernel::read_all(file.get(), "timers"));
  for (kernel::PosixTimer& timer : timers)
    for (const FrozenThread& thread : task.threads)
      if (thread.tid == timer.target) timer.target = thread.ns_tid;
  return timers;
}

// What only the leader is asked.
struct ProcessQuestions {
  ProcessQuestions(SyscallBatch& batch, const FrozenTask& task)
      : actions(batch),
        timers(batch, posix_timers(task)),
        subreaper(batch.space(8)),
        brk(batch.must("read the heap of", SYS_brk, 0)),
        dumpable(batch.must("read the dumpable flag of", SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0)),
        membarrier(batch.may(SYS_membarrier, membarrier_get_registrations, 0, 0)) {
    batch.must("read the subreaper flag of", SYS_prctl, PR_GET_CHILD_SUBREAPER, subreaper, 0, 0, 0);
  }
  SignalActions actions;
  Timers timers;
  SyscallBatch::Data subreaper;
  SyscallBatch::Slot brk, dumpable, membarrier;
};

void store_process(const FrozenTask& task, const SyscallBatch& batch, const ProcessQuestions& asked,
                   const userns::IdMap& ids, image::TaskCoreEntry* core) {
  const FrozenThread& leader = task.threads.front();
  core->set_task_state(leader.stop_signal ? image::task_stopped : image::task_alive);
  if (leader.stop_signal) core->set_stop_signo(static_cast<uint32_t>(leader.stop_signal));
  core->set_exit_code(0);
  core->set_flags(task.stat.flags);
  core->set_comm(task.status.name);
  std::string personality = kernel::read_file_at(task.proc.get(), "personality");
  core->set_personality(text::to_int<uint32_t>(text::trim(personality), 16).value_or(0));
  asked.actions.store(batch, core);
  asked.timers.store(batch, core->mutable_timers());
  core->set_child_subreaper(batch.view<int32_t>(asked.subreaper) != 0);
  long registrations = batch.result(asked.membarrier);
  if (registrations > 0)
    core->set_membarrier_registration_mask(static_cast<uint32_t>(registrations));
  store_limits(task, ids, core);
}

// Restored threads share what is to be undone of their semaphore operations;
// processes don't.
void check_undo(const FrozenTask& task, SemaphoreUse& semaphores) {
  if (semaphores.sets.empty()) return;
  auto refuse = [&](const std::string& why) {
    throw Error("checkpoint", task.name())
        .because(why)
        .hint("let it use semaphores without SEM_UNDO, or clone with pthread_create() or fork()");
  };
  for (const FrozenThread& thread : task.threads)
    if (sysv::has_undo(thread.tid) && !sysv::shares_undo(task.pid, thread.tid))
      refuse(fmt::format("its thread {} undoes semaphore operations for itself", thread.tid));
  if (!sysv::has_undo(task.pid)) return;
  for (pid_t other : semaphores.undoing)
    if (sysv::shares_undo(task.pid, other))
      refuse(fmt::format("it shares with process {} what is undone of semaphores", other));
  semaphores.undoing.push_back(task.pid);
}

void store_undo(const FrozenTask& task, HealingStub& stub, SemaphoreUse& semaphores) {
  if (semaphores.sets.empty() || !sysv::has_undo(task.pid)) return;
  auto found = sysv::read_undo(semaphores.sets, static_cast<uint32_t>(task.ns_pid),
                               [&](SyscallBatch& batch) { stub.run(batch); });
  semaphores.undo.insert(semaphores.undo.end(), found.begin(), found.end());
}

}  // namespace

uint64_t store_cores(FrozenTask& task, const userns::IdMap& ids, SeccompFilters& filters,
                     SemaphoreUse& semaphores) {
  check_undo(task, semaphores);
  StubSite site = find_stub_site(task);
  uint64_t brk = 0;
  for (FrozenThread& thread : task.threads) {
    bool leader = &thread == &task.threads.front();
    const kernel::ProcStatus& s = thread.status;
    SyscallBatch batch;
    Credentials credentials(batch);
    ThreadState state(batch);
    std::optional<ProcessQuestions> process;
    if (leader) process.emplace(batch, task);

    image::CoreEntry& core = thread.core;
    image::ThreadCoreEntry* t = core.mutable_thread_core();
    // Before anything runs in the thread, which unblocks SIGTRAP.
    store_pending(thread.tracee, false, t->mutable_signals_p());
    if (leader) store_pending(thread.tracee, true, core.mutable_tc()->mutable_signals_s());
    HealingStub stub = stub_in(task, thread, site);
    core.set_mtype(image::CoreEntry::X86_64);
    store_registers(stub.saved(), thread.tracee.xstate(), core.mutable_thread_info());
    stub.run(batch);
    if (leader) store_undo(task, stub, semaphores);
    stub.finish();

    credentials.store(batch, s, lsm_label(task, thread), ids, t->mutable_creds());
    state.store(batch, thread.tracee, s.name, &core);
    filters.store(thread.tracee, s.seccomp, t);
    t->set_blk_sigset(stub.mask());
    if (!leader) continue;
    store_process(task, batch, *process, ids, core.mutable_tc());
    core.mutable_tc()->set_blk_sigset(stub.mask());
    brk = static_cast<uint64_t>(batch.result(process->brk));
    task.dumpable = static_cast<int>(batch.result(process->dumpable));
  }
  return brk;
}

image::CoreEntry zombie_core(const FrozenTask& task) {
  image::CoreEntry core;
  core.set_mtype(image::CoreEntry::X86_64);
  image::TaskCoreEntry* t = core.mutable_tc();
  t->set_task_state(image::task_dead);
  t->set_exit_code(static_cast<uint32_t>(task.stat.exit_code));
  t->set_personality(0);
  t->set_flags(task.stat.flags);
  t->set_blk_sigset(0);
  t->set_comm(task.status.name);
  return core;
}

}  // namespace stasis::engine
