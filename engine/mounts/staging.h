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
  // For a copy of the namespace: enter() before unshare(CLONE_NEWNS), which
  // takes the working directory along into the copy, copied() behind it.
  void enter() const;
  Staging copied() const;

  // Puts a detached mount, of a directory or a file, into this namespace.
  void attach(int mount);
  // A directory of ours that something may be mounted on, and what was last.
  int place() const { return directory_.get(); }
  UniqueFd placed() const;
  // The root of the new tree, which must not be covered by others.
  void attach_root(int mount);

  // A mount that is to be copied in other namespaces, too, and later on; planted()
  // gives its root (O_PATH) in this one.
  void plant(int mount, int number);
  UniqueFd planted(int number) const;

  // It stands on our own root directory, not on one beneath it.
  bool covers_root() const { return covers_root_; }

 private:
  Staging() = default;

  UniqueFd mount_, directory_, file_, root_;
  bool covers_root_ = false;
};

}  // namespace stasis::engine::mounts
