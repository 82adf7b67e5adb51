// The address space of a task: VMAs as the image has them, and the system
// calls that lay them out again.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "engine/files/dumper.h"
#include "engine/memory/pages.h"
#include "engine/remote/syscall_batch.h"
#include "engine/tasks/frozen_tree.h"
#include "mm.pb.h"

namespace stasis::engine {

// Dump: one VmaEntry for each of the task's areas (task.areas, from smaps).
// Mapped files go to `files`. Throws for what cannot be carried, by name.
void store_vmas(const FrozenTask& task, files::Dumper& files, image::MmEntry* mm);

// Code and data boundaries, auxv and the link to the program. `brk` is the
// current end of the heap as the task itself knows it.
void store_mm(const FrozenTask& task, uint64_t brk, files::Dumper& files, image::MmEntry* mm);

// Whether pages of this VMA lie in the task's own pagemap image.
bool has_own_pages(const image::VmaEntry& vma);
bool is_kernel_made(const image::VmaEntry& vma);  // vdso, vvar, vsyscall

// Restore. `descriptor` holds, for each VMA that maps a file or a shared area,
// the number of the open descriptor in the task. Those in `there` exist.
// Writable while it is filled: protect_vmas() afterwards gives each its own
// protection and advice.
void map_vmas(const image::MmEntry& mm, const std::map<size_t, int>& descriptors,
              const std::map<size_t, uint64_t>& there, SyscallBatch& batch);
// System V shared memory as it was attached: where the segment begins, which may
// be in front of what is left of it. Attached before all else, as a whole, by
// `sizes` (whole pages) of the segments.
struct Attachment {
  uint64_t start, segment;
  auto operator<=>(const Attachment&) const = default;
};
std::map<Attachment, std::vector<const image::VmaEntry*>> attachments(const image::MmEntry& mm);
void attach_segments(const image::MmEntry& mm, const std::map<uint64_t, uint64_t>& sizes,
                     SyscallBatch& batch);
// Where they need room, be it for a moment.
std::vector<PageRange> attached_ranges(const image::MmEntry& mm,
                                       const std::map<uint64_t, uint64_t>& sizes);
void protect_vmas(const image::MmEntry& mm, SyscallBatch& batch);
// Boundaries, auxv and exe link; needs the program's descriptor in the task.
void restore_mm(const image::MmEntry& mm, int exe_fd, SyscallBatch& batch);

}  // namespace stasis::engine
