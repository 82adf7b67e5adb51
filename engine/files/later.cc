#include "engine/files/later.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

#include "kernel/call.h"

namespace stasis::engine::files {

UniqueFd Later::open(Open open) {
  if (pids_) return open(*pids_);
  long made = kernel::call(SYS_eventfd2, 0, EFD_CLOEXEC);
  UniqueFd place(static_cast<int>(kernel::must(made, "hold a place for", "a file")));
  pending_.emplace_back(place.get(), std::move(open));
  return place;
}

void Later::set_pids(Pids pids) {
  pids_ = std::move(pids);
  for (const auto& [place, open] : pending_) {
    UniqueFd file = open(*pids_);
    kernel::must(kernel::call(SYS_dup3, file.get(), place, O_CLOEXEC), "place", "a file");
  }
  pending_.clear();
}

}  // namespace stasis::engine::files
