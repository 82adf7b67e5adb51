// A place in a mount namespace where mounts wait, out of everybody's sight,
// until the tree is built. It goes away with the old root.
#pragma once

#include <string>

#include "base/unique_fd.h"

namespace stasis::engine::mounts {

class Staging {
 public:
  // A file system of its own over the directory `place` (O_PATH).
  explicit Staging(int place);

  // Puts a detached mount, of a directory or a file, into this namespace.
  void attach(int mount);
  // The root of the new tree, which must not be covered by others.
  void attach_root(int mount);

  // It stands on our own root directory, not on one beneath it.
  bool covers_root() const { return covers_root_; }

 private:
  UniqueFd mount_, directory_, file_, root_;
  bool covers_root_;
};

}  // namespace stasis::engine::mounts
