// The vdso: code of the kernel's in every task. It can be given to a restored
// task only where it is byte for byte the dumped one.
#pragma once

#include "engine/image/checkpoint.h"
#include "engine/remote/syscall_batch.h"

namespace stasis::engine {

// Refuses, before there is any task, an image whose vdso is another kernel's.
void check_vdso(const image::Checkpoint& checkpoint);

// Maps it where the image has it.
void map_vdso(const image::MmEntry& mm, SyscallBatch& batch);

}  // namespace stasis::engine
