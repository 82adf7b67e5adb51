#include "engine/tasks/thread_state.h"

#include <linux/ptrace.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <cerrno>

#include "kernel/call.h"

#ifndef PTRACE_GET_RSEQ_CONFIGURATION
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif

namespace stasis::engine {

using kernel::call;
using kernel::must;

namespace {

struct RseqConfiguration {
  uint64_t pointer;
  uint32_t size, signature, flags, pad;
};

std::string thread_name(const Tracee& thread) { return "thread " + std::to_string(thread.tid()); }

void store_rseq(const Tracee& thread, image::ThreadCoreEntry* core) {
  RseqConfiguration rseq{};
  long n = call(SYS_ptrace, PTRACE_GET_RSEQ_CONFIGURATION, thread.tid(), sizeof rseq, &rseq);
  if (n < 0 || rseq.pointer == 0) return;
  image::RseqEntry* entry = core->mutable_rseq_entry();
  entry->set_rseq_abi_pointer(rseq.pointer);
  entry->set_rseq_abi_size(rseq.size);
  entry->set_signature(rseq.signature);
  // struct rseq: cpu_id_start, cpu_id, rseq_cs. The kernel clears rseq_cs when
  // a stop finds ip outside of the critical section.
  uint64_t critical_section = 0;
  read_memory(thread.tid(), rseq.pointer + 8, &critical_section, sizeof critical_section);
  if (critical_section != 0) entry->set_rseq_cs_pointer(critical_section);
}

void store_scheduling(const Tracee& thread, image::ThreadCoreEntry* core) {
  long policy = must(call(SYS_sched_getscheduler, thread.tid()), "read the scheduling policy of",
                     thread_name(thread));
  sched_param parameters{};
  must(call(SYS_sched_getparam, thread.tid(), &parameters), "read the scheduling priority of",
       thread_name(thread));
  long nice = 20 - must(call(SYS_getpriority, PRIO_PROCESS, thread.tid()), "read the nice value of",
                        thread_name(thread));
  core->set_sched_policy(static_cast<uint32_t>(policy));
  core->set_sched_prio(static_cast<uint32_t>(parameters.sched_priority));
  core->set_sched_nice(static_cast<int32_t>(nice));
}

}  // namespace

ThreadState::ThreadState(SyscallBatch& batch)
    : stack_(batch.space(sizeof(stack_t))),
      tid_address_(batch.space(8)),
      death_signal_(batch.space(8)) {
  batch.must("read the alternate stack of", SYS_sigaltstack, nullptr, stack_);
  batch.may(SYS_prctl, PR_GET_TID_ADDRESS, tid_address_, 0, 0, 0);
  batch.must("read the parent death signal of", SYS_prctl, PR_GET_PDEATHSIG, death_signal_, 0, 0,
             0);
}

void ThreadState::store(const SyscallBatch& batch, const Tracee& thread, const std::string& comm,
                        image::CoreEntry* core) const {
  image::ThreadCoreEntry* t = core->mutable_thread_core();
  uint64_t head = 0, length = 0;
  must(call(SYS_get_robust_list, thread.tid(), &head, &length), "read the robust futex list of",
       thread_name(thread));
  t->set_futex_rla(head);
  t->set_futex_rla_len(static_cast<uint32_t>(length));
  store_scheduling(thread, t);
  auto stack = batch.view<stack_t>(stack_);
  image::ThreadSasEntry* sas = t->mutable_sas();
  sas->set_ss_sp(reinterpret_cast<uint64_t>(stack.ss_sp));
  sas->set_ss_size(stack.ss_size);
  sas->set_ss_flags(static_cast<uint32_t>(stack.ss_flags));
  if (auto signal = batch.view<int32_t>(death_signal_))
    t->set_pdeath_sig(static_cast<uint32_t>(signal));
  t->set_comm(comm);
  store_rseq(thread, t);
  core->mutable_thread_info()->set_clear_tid_addr(batch.view<uint64_t>(tid_address_));
}

void restore_thread_state(const image::CoreEntry& core, SyscallBatch& batch) {
  const image::ThreadCoreEntry& t = core.thread_core();
  if (t.has_sas() && t.sas().ss_size() > 0) {
    // SS_ONSTACK is an answer, not a request.
    stack_t stack{reinterpret_cast<void*>(t.sas().ss_sp()),
                  static_cast<int>(t.sas().ss_flags()) & ~SS_ONSTACK, t.sas().ss_size()};
    batch.must("set the alternate stack of", SYS_sigaltstack, batch.object(stack), nullptr);
  }
  if (t.futex_rla() != 0)
    batch.must("set the robust futex list of", SYS_set_robust_list, t.futex_rla(),
               t.futex_rla_len());
  batch.must("set the thread id address of", SYS_set_tid_address,
             core.thread_info().clear_tid_addr());
  std::string comm = t.has_comm() ? t.comm() : core.tc().comm();
  batch.must("name", SYS_prctl, PR_SET_NAME, batch.text(comm), 0, 0, 0);
  if (t.has_rseq_entry()) {
    const image::RseqEntry& rseq = t.rseq_entry();
    batch.must("register rseq of", SYS_rseq, rseq.rseq_abi_pointer(), rseq.rseq_abi_size(), 0,
               rseq.signature());
  }
}

void restore_scheduling(const image::ThreadCoreEntry& thread, pid_t tid, const std::string& name) {
  if (thread.sched_policy() == SCHED_OTHER || thread.sched_policy() == SCHED_BATCH)
    must(call(SYS_setpriority, PRIO_PROCESS, tid, thread.sched_nice()), "set the nice value of",
         name);
  if (thread.sched_policy() != SCHED_OTHER) {
    sched_param parameters{static_cast<int>(thread.sched_prio())};
    must(call(SYS_sched_setscheduler, tid, thread.sched_policy(), &parameters),
         "set the scheduling policy of", name);
  }
}

std::vector<SyscallBatch::Slot> restore_own_scheduling(const image::ThreadCoreEntry& thread,
                                                       SyscallBatch& batch) {
  std::vector<SyscallBatch::Slot> calls;
  auto nice = batch.may(SYS_setpriority, PRIO_PROCESS, 0, thread.sched_nice());
  if (thread.sched_nice() != 0) calls.push_back(nice);  // 0 asks for nothing
  if (thread.sched_policy() != SCHED_OTHER) {
    sched_param parameters{static_cast<int>(thread.sched_prio())};
    calls.push_back(
        batch.may(SYS_sched_setscheduler, 0, thread.sched_policy(), batch.object(parameters)));
  }
  return calls;
}

void restore_death_signal(const image::ThreadCoreEntry& thread, SyscallBatch& batch) {
  if (thread.pdeath_sig() != 0)
    batch.must("set the parent death signal of", SYS_prctl, PR_SET_PDEATHSIG, thread.pdeath_sig(),
               0, 0, 0);
}

}  // namespace stasis::engine
