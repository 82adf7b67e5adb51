#include "engine/memory/address_space.h"

#include <algorithm>

namespace stasis::engine {

uint64_t roomiest_place(std::vector<std::pair<uint64_t, uint64_t>> taken, uint64_t size) {
  constexpr uint64_t page = 4096, lowest = 0x10000;
  taken.emplace_back(task_size, task_size);
  std::sort(taken.begin(), taken.end());
  uint64_t best = 0, width = 0, end = lowest;
  for (auto [start, next] : taken) {
    if (start > task_size) break;
    if (start > end && start - end > width) {
      width = start - end;
      best = end + width / 2;
    }
    end = std::max(end, next);
  }
  return width < 2 * size ? 0 : best & ~(page - 1);
}

}  // namespace stasis::engine
