// What the kernel is to undo of a process' semaphore operations when it ends
// (SEM_UNDO). No interface tells it: it is found by operations that fail, and so
// change nothing, one way if an adjustment is large enough and another if not.
#pragma once

#include <sys/types.h>

#include <functional>
#include <vector>

#include "engine/image/checkpoint.h"
#include "engine/remote/syscall_batch.h"

namespace stasis::engine::sysv {

struct Semaphores {
  uint32_t id;
  std::vector<uint16_t> values;
};
// Of the calling thread's namespace.
std::vector<Semaphores> semaphore_sets();

// Whether a thread has such a list, and whether two share it. We never have one.
bool has_undo(pid_t thread);
bool shares_undo(pid_t a, pid_t b);

// `run` carries a batch out in the process, which has a list; `pid` is its id in
// the image.
std::vector<image::SemaphoreUndoEntry> read_undo(const std::vector<Semaphores>& sets, uint32_t pid,
                                                 const std::function<void(SyscallBatch&)>& run);

// The values must be there.
void restore_undo(const image::Checkpoint& checkpoint, uint32_t pid, SyscallBatch& batch);

}  // namespace stasis::engine::sysv
