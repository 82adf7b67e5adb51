// The cgroup freezer, v1 and v2, for containers of many tasks: it stops all of
// them at once, so that seizing does not race with each.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/unique_fd.h"

namespace stasis::engine {

class Freezer {
 public:
  // `directory` of the container's cgroup in a v1 freezer or in the v2
  // hierarchy; empty for none. Remembers the state found.
  explicit Freezer(const std::string& directory);
  ~Freezer();  // puts the state found back

  bool available() const { return kind_ != Kind::none; }
  bool found_frozen() const { return found_frozen_; }

  // Waits until every task is frozen. While we hold it frozen a guard process
  // stands by that thaws if we are killed.
  void freeze();
  // So that ptrace stops are reported (v1) and single steps end (v2).
  void thaw();
  // Asks for the state found, without waiting: tasks freeze when let go.
  void put_back();

  // All process ids in the cgroup and those below it, in our pid namespace.
  static std::vector<pid_t> processes(const std::string& directory);

 private:
  enum class Kind { none, v1, v2 };
  bool is_frozen() const;
  void set(bool frozen);
  void stand_guard();
  void dismiss_guard();

  std::string directory_;
  Kind kind_ = Kind::none;
  bool found_frozen_ = false;
  bool frozen_ = false;
  UniqueFd guard_;  // pipe: its end makes the guard thaw
  pid_t guard_pid_ = 0;
};

}  // namespace stasis::engine
