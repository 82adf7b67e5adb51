// Resource limits, oom_score_adj and loginuid of a process.
#pragma once

#include "engine/remote/syscall_batch.h"
#include "engine/tasks/frozen_tree.h"

namespace stasis::engine {

void store_limits(const FrozenTask& task, image::TaskCoreEntry* core);

// Restore. In the task, while it may still raise hard limits; those it has
// already are left alone (raising needs CAP_SYS_RESOURCE). `current` are the
// limits that it was born with.
void restore_limits(const image::TaskCoreEntry& core, const std::string& current,
                    SyscallBatch& batch);

// From outside, through /proc/PID: what only we may write.
void restore_proc_values(const image::TaskCoreEntry& core, int proc, Log& log);

}  // namespace stasis::engine
