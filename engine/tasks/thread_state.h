// What belongs to one thread beside registers, signals and credentials:
// alternate stack, robust futex list, rseq, clear_child_tid, name, scheduling.
#pragma once

#include <string>
#include <vector>

#include "core.pb.h"
#include "engine/remote/syscall_batch.h"
#include "engine/remote/tracee.h"

namespace stasis::engine {

class ThreadState {
 public:
  explicit ThreadState(SyscallBatch& batch);
  void store(const SyscallBatch& batch, const Tracee& thread, const std::string& comm,
             image::CoreEntry* core) const;

 private:
  SyscallBatch::Data stack_, tid_address_, death_signal_;
};

// Restore, run by the thread itself when its memory is in place.
void restore_thread_state(const image::CoreEntry& core, SyscallBatch& batch);
// From outside: root in a user namespace may not ask for more of the processor.
void restore_scheduling(const image::ThreadCoreEntry& thread, pid_t tid, const std::string& name);
// By the thread itself, with no more rights than it has: the calls may be refused.
std::vector<SyscallBatch::Slot> restore_own_scheduling(const image::ThreadCoreEntry& thread,
                                                       SyscallBatch& batch);
// Behind the credentials, whose change clears it.
void restore_death_signal(const image::ThreadCoreEntry& thread, SyscallBatch& batch);

}  // namespace stasis::engine
