// Resource limits, oom_score_adj and loginuid of a process.
#pragma once

#include "engine/namespaces/userns.h"
#include "engine/remote/syscall_batch.h"
#include "engine/tasks/frozen_tree.h"

namespace stasis::engine {

void store_limits(const FrozenTask& task, const userns::IdMap& ids, image::TaskCoreEntry* core);

// Restore, from outside: root in a user namespace may not raise hard limits.
// Those that the task was born with are left alone (raising needs CAP_SYS_RESOURCE).
void restore_limits(const image::TaskCoreEntry& core, pid_t pid, const std::string& name);

// Through /proc/PID: what only we may write.
void restore_proc_values(const image::TaskCoreEntry& core, int proc, Log& log);

// The same for a task whose limits and values config.json gives it: what the
// image has is set as far as that is no more. `current` is its /proc/PID/limits.
void lower_limits(const image::TaskCoreEntry& core, const std::string& current,
                  SyscallBatch& batch);
void lower_proc_values(const image::TaskCoreEntry& core, int proc, Log& log);

}  // namespace stasis::engine
