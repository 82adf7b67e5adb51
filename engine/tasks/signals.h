// Signal actions, alternate stacks and pending signals.
#pragma once

#include <vector>

#include "core.pb.h"
#include "engine/image/checkpoint.h"
#include "engine/remote/syscall_batch.h"
#include "engine/remote/tracee.h"

namespace stasis::engine {

// The kernel's struct sigaction (not libc's).
struct KernelSigaction {
  uint64_t handler, flags, restorer, mask;
};

// Dump: asks in the task (one batch), then writes down.
class SignalActions {
 public:
  explicit SignalActions(SyscallBatch& batch);
  void store(const SyscallBatch& batch, image::TaskCoreEntry* core) const;

 private:
  std::vector<SyscallBatch::Data> actions_;
};

// Restore. The action of SIGTRAP is left out when it is "ignore": a trap under
// a tracer would reset it (force_sig in kernel/signal.c); ignores_trap() tells
// that set_trap_ignored() has to run last, outside of any batch.
void restore_actions(const image::CoreEntry& core, SyscallBatch& batch);
bool ignores_trap(const image::CoreEntry& core);

// What stops a task that was stopped, or about to be: what its parent was told
// of, where that stops for sure, and else SIGSTOP. 0: it runs.
int stop_signal(const image::Checkpoint& checkpoint, const image::TaskImage& task);

// Signals waiting for one thread, or (shared) for its whole process.
void store_pending(const Tracee& thread, bool shared, image::SignalQueueEntry* queue);
void restore_pending(const image::SignalQueueEntry& queue, pid_t ns_pid, pid_t ns_tid, bool shared,
                     SyscallBatch& batch);

}  // namespace stasis::engine
