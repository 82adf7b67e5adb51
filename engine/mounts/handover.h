// How mounts of the host come into a container with a user namespace: they stand
// in the mount namespace that the container's is a copy of. The kernel locks
// their flags with that copy (a nodev stays nodev), and what they share with the
// host becomes receiving only, both as for any container that was just created.
#pragma once

#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "engine/mounts/locked.h"

namespace stasis::engine::mounts {

class Handover {
 public:
  // Until it is destroyed, this thread is in a mount namespace of its own, where
  // these mounts, attached nowhere before, are attached; whom it clones finds them.
  // They stand beneath `place` or, where that is the root, elsewhere. What is locked to
  // others stands on copies of those, too, all of them private.
  Handover(const std::string& place, const std::vector<UniqueFd>& mounts,
           const std::vector<Locked>& locked);
  ~Handover();
  Handover(const Handover&) = delete;
  Handover& operator=(const Handover&) = delete;

 private:
  void go_home() noexcept;

  UniqueFd home_, root_, directory_;
};

// In the clone, which is still in the working directory it was born with: its own copies,
// and a directory where it may attach others.
std::vector<UniqueFd> take_over(const std::vector<UniqueFd>& mounts);
// A new copy of a mount with all that is locked to it, attached nowhere.
UniqueFd copy_whole(int mount);
UniqueFd take_over_place();

}  // namespace stasis::engine::mounts
