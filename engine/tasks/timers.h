// Interval timers and POSIX timers of a process.
#pragma once

#include <string>
#include <vector>

#include "core.pb.h"
#include "engine/remote/syscall_batch.h"
#include "kernel/proc_misc.h"

namespace stasis::engine {

// Dump. `posix` is /proc/PID/timers; its thread targets are translated by the
// caller's `to_ns` map when the timer goes to one thread.
class Timers {
 public:
  Timers(SyscallBatch& batch, const std::vector<kernel::PosixTimer>& posix);
  void store(const SyscallBatch& batch, image::TaskTimersEntry* timers) const;

 private:
  SyscallBatch::Data interval_[3];
  struct Posix {
    kernel::PosixTimer timer;
    SyscallBatch::Data spec;
    SyscallBatch::Slot overrun;
  };
  std::vector<Posix> posix_;
};

// Restore: all threads exist, signals are blocked.
void restore_timers(const image::TaskTimersEntry& timers, SyscallBatch& batch);

}  // namespace stasis::engine
