// Where a task's memory may lie, and what is free of it.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace stasis::engine {

inline constexpr uint64_t task_size = 0x7ffffffff000;  // x86-64 with four levels

// The middle, at a page, of the widest range that none of `taken` (start, end) is in:
// far from what grows. 0: not even `size` bytes fit behind it.
uint64_t roomiest_place(std::vector<std::pair<uint64_t, uint64_t>> taken, uint64_t size);

}  // namespace stasis::engine
