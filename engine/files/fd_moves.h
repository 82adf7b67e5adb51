// Putting a set of open descriptors onto wanted numbers with dup3 and close
// alone: a pure plan, which whoever owns the descriptors then carries out
// (inside a restored task: as entries of a syscall batch).
#pragma once

#include <vector>

namespace stasis::engine::files {

// One descriptor open at `from` that is wanted at `to`. One `from` may be
// wanted at several numbers; a `to` stands once.
struct FdMove {
  int from = -1;
  int to = -1;
  bool cloexec = false;  // of `to`, afterwards
};

struct FdStep {
  enum class Kind { dup3, close, set_cloexec };
  Kind kind = Kind::dup3;
  int fd = -1;           // dup3's old descriptor, the one closed or changed
  int target = -1;       // dup3's new number
  bool cloexec = false;  // for dup3 and set_cloexec
  bool operator==(const FdStep&) const = default;
};

// The steps, in order, after which exactly the wanted numbers are open of all
// numbers that stand in `moves`. Each number is written only after what was
// open there has been moved on; cycles pass through a number above all others
// that is closed again.
std::vector<FdStep> plan_fd_moves(const std::vector<FdMove>& moves);

}  // namespace stasis::engine::files
