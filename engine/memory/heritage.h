// What a task that was forked keeps of the memory that it was born with, so
// that pages which it shared copy-on-write are shared again after a restore.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "engine/image/checkpoint.h"
#include "engine/memory/pages.h"
#include "engine/remote/syscall_batch.h"

namespace stasis::engine {

// Whether one of them was forked from the other, or both from a third, with no
// execve since. Only a hint: contents are compared.
bool same_program(const image::MmEntry& a, const image::MmEntry& b);

struct Heritage {
  // Of the VMAs (by index) that the task has already, wholly or up to an address.
  std::map<size_t, uint64_t> kept;
  std::vector<PageRange> pages;  // that lie in it, ascending
  bool vdso = false;             // is where it should be
};

// The task has the memory of `from`, laid out and filled, and `spare`, which
// stays; it is to become `to`. Nothing is kept in `needed`. Adds to `batch` what
// removes the rest.
Heritage take_heritage(const image::TaskImage& from, const image::TaskImage& to, PageRange spare,
                       const std::vector<PageRange>& needed, SyscallBatch& batch);

}  // namespace stasis::engine
