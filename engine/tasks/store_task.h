// Looks inside one frozen task and writes its cores: one batch of system calls
// a thread, the rest from /proc.
#pragma once

#include "engine/namespaces/semaphore_undo.h"
#include "engine/namespaces/userns.h"
#include "engine/tasks/frozen_tree.h"
#include "engine/tasks/seccomp.h"

namespace stasis::engine {

struct SemaphoreUse {
  std::vector<sysv::Semaphores> sets;             // of the container
  std::vector<pid_t> undoing;                     // processes with something to undo, perhaps
  std::vector<image::SemaphoreUndoEntry> undo{};  // found
};

// Fills the CoreEntry of each thread and returns the end of the heap. Needs
// task.areas. All is put back when it returns or throws.
uint64_t store_cores(FrozenTask& task, const userns::IdMap& ids, SeccompFilters& filters,
                     SemaphoreUse& semaphores);

// A zombie's core: that it is dead, and of what.
image::CoreEntry zombie_core(const FrozenTask& task);

}  // namespace stasis::engine
