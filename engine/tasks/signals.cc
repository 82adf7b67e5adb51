#include "engine/tasks/signals.h"

#include <linux/ptrace.h>
#include <signal.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "kernel/call.h"

namespace stasis::engine {

namespace {

constexpr int signals = 64;
constexpr size_t mask_size = 8;

bool has_action(int signal) { return signal != SIGKILL && signal != SIGSTOP; }

// The image holds one entry for each signal that can have an action, in order.
template <typename Visit>
void for_each_action(const image::CoreEntry& core, Visit visit) {
  int index = 0;
  for (int signal = 1; signal <= signals; ++signal) {
    if (!has_action(signal)) continue;
    if (index >= core.tc().sigactions_size()) return;
    visit(signal, core.tc().sigactions(index++));
  }
}

}  // namespace

SignalActions::SignalActions(SyscallBatch& batch) {
  for (int signal = 1; signal <= signals; ++signal) {
    if (!has_action(signal)) continue;
    SyscallBatch::Data action = batch.space(sizeof(KernelSigaction));
    batch.must("read the signal actions of", SYS_rt_sigaction, signal, nullptr, action, mask_size);
    actions_.push_back(action);
  }
}

void SignalActions::store(const SyscallBatch& batch, image::TaskCoreEntry* core) const {
  for (SyscallBatch::Data data : actions_) {
    auto action = batch.view<KernelSigaction>(data);
    image::SaEntry* entry = core->add_sigactions();
    entry->set_sigaction(action.handler);
    entry->set_flags(action.flags);
    entry->set_restorer(action.restorer);
    entry->set_mask(action.mask);
  }
}

bool ignores_trap(const image::CoreEntry& core) {
  bool result = false;
  for_each_action(core, [&](int signal, const image::SaEntry& entry) {
    if (signal == SIGTRAP && entry.sigaction() == 1) result = true;
  });
  return result;
}

void restore_actions(const image::CoreEntry& core, SyscallBatch& batch) {
  bool trap_ignored = ignores_trap(core);
  for_each_action(core, [&](int signal, const image::SaEntry& entry) {
    if (signal == SIGTRAP && trap_ignored) return;
    // Defaults too: what the runtime ignores, the root task has inherited.
    KernelSigaction action{entry.sigaction(), entry.flags(), entry.restorer(), entry.mask()};
    batch.must("set the signal actions of", SYS_rt_sigaction, signal, batch.object(action), nullptr,
               mask_size);
  });
}

namespace {

// The kernel lets terminal signals stop no orphaned process group: one of whose
// members' parents none is in the same session, but another group.
bool is_orphaned(const image::Checkpoint& checkpoint, const image::PstreeEntry& task) {
  for (const image::TaskImage& member : checkpoint.tasks) {
    if (member.tree.pgid() != task.pgid() || member.dead()) continue;
    for (const image::TaskImage& parent : checkpoint.tasks)
      if (parent.tree.pid() == member.tree.ppid() && parent.tree.sid() == member.tree.sid() &&
          parent.tree.pgid() != task.pgid())
        return false;
  }
  return true;
}

siginfo_t info_of(const image::SiginfoEntry& entry) {
  siginfo_t info{};
  memcpy(&info, entry.siginfo().data(), std::min(entry.siginfo().size(), sizeof info));
  return info;
}

bool has_pending_stop(const image::TaskImage& task) {
  auto holds = [](const image::SignalQueueEntry& queue) {
    return std::any_of(queue.signals().begin(), queue.signals().end(),
                       [](const auto& entry) { return info_of(entry).si_signo == SIGSTOP; });
  };
  return holds(task.core().signals_s()) ||
         std::any_of(task.threads.begin(), task.threads.end(), [&](const image::CoreEntry& thread) {
           return holds(thread.thread_core().signals_p());
         });
}

}  // namespace

int stop_signal(const image::Checkpoint& checkpoint, const image::TaskImage& task) {
  if (!task.stopped()) return task.dead() || !has_pending_stop(task) ? 0 : SIGSTOP;
  auto wanted = static_cast<int>(task.core().stop_signo());
  if (wanted != SIGTSTP && wanted != SIGTTIN && wanted != SIGTTOU) return SIGSTOP;
  bool stops = !is_orphaned(checkpoint, task.tree);
  for_each_action(task.threads.front(), [&](int signal, const image::SaEntry& entry) {
    if (signal == wanted && entry.sigaction() != 0) stops = false;
  });
  for (const image::CoreEntry& thread : task.threads) {
    uint64_t blocked = thread.thread_core().has_blk_sigset() ? thread.thread_core().blk_sigset()
                                                             : task.core().blk_sigset();
    if (blocked & uint64_t{1} << (wanted - 1)) stops = false;
  }
  return stops ? wanted : SIGSTOP;
}

void store_pending(const Tracee& thread, bool shared, image::SignalQueueEntry* queue) {
  std::array<siginfo_t, 32> chunk;
  ptrace_peeksiginfo_args args{};
  args.flags = shared ? PTRACE_PEEKSIGINFO_SHARED : 0;
  args.nr = chunk.size();
  for (;;) {
    long n = kernel::must(
        kernel::call(SYS_ptrace, PTRACE_PEEKSIGINFO, thread.tid(), &args, chunk.data()),
        "read the pending signals of thread", std::to_string(thread.tid()));
    if (n == 0) return;
    for (long i = 0; i < n; ++i)
      queue->add_signals()->set_siginfo(&chunk[static_cast<size_t>(i)], sizeof(siginfo_t));
    args.off += static_cast<uint64_t>(n);
  }
}

void restore_pending(const image::SignalQueueEntry& queue, pid_t ns_pid, pid_t ns_tid, bool shared,
                     SyscallBatch& batch) {
  for (const image::SiginfoEntry& entry : queue.signals()) {
    siginfo_t info = info_of(entry);
    // No mask holds it back: it comes when the task is let go.
    if (info.si_signo == SIGSTOP) continue;
    SyscallBatch::Data data = batch.object(info);
    // A task may send itself any siginfo, also the kernel's.
    if (shared)
      batch.must("queue the pending signals of", SYS_rt_sigqueueinfo, ns_pid, info.si_signo, data);
    else
      batch.must("queue the pending signals of", SYS_rt_tgsigqueueinfo, ns_pid, ns_tid,
                 info.si_signo, data);
  }
}

}  // namespace stasis::engine
