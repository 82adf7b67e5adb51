// The vdso: code of the kernel's in every task, with data pages in front of it.
// Where it is byte for byte the dumped one, a restored task gets it at its old
// place. Else the task keeps the dumped one, as memory of its own whose functions
// lead on to this kernel's, which it gets somewhere else.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "engine/image/checkpoint.h"
#include "engine/remote/syscall_batch.h"
#include "engine/tasks/frozen_tree.h"

namespace stasis::engine {

// Dump: lets a thread that stands in its vdso run to the end of the function. In
// the middle of it only the kernel that it began under could go on.
void leave_vdso(const FrozenTask& task, Tracee& thread);

// Restore, before there is any task: tasks of another kernel's vdso get the one
// and the other into their memory maps and patches. `taken`: addresses to keep
// clear of, start and end. Throws where that can't be.
void fit_vdso(image::Checkpoint& checkpoint,
              const std::vector<std::pair<uint64_t, uint64_t>>& taken);

// Maps the kernel's where the image has it.
void map_vdso(const image::MmEntry& mm, SyscallBatch& batch);

}  // namespace stasis::engine
