// The mount calls that work on descriptors: fsopen, fsmount, open_tree,
// move_mount, mount_setattr; and pivot_root, umount2. All throw Error.
#pragma once

#include <sys/mount.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/unique_fd.h"

namespace stasis::kernel {

// A superblock in the making. What the file system has to say about a refused
// option is read from its log and becomes part of the Error.
class FsContext {
 public:
  explicit FsContext(const std::string& type);
  // Opens the superblock behind a mount for changing its options.
  static FsContext pick(int mount_fd, const std::string& type);

  void set(const std::string& option, const std::string& value);
  void set(const std::string& flag);
  void create();
  void reconfigure();
  // The new mount, attached nowhere. `attributes`: MOUNT_ATTR_*.
  UniqueFd mount(unsigned attributes);

 private:
  FsContext() = default;
  void check(long result, const std::string& operation, const std::string& subject);

  UniqueFd fd_;
  std::string type_;
};

// mount(2), for what doesn't fit into an FsContext, where no value is longer
// than 255 bytes. `data`: a page of options at most, and those of remounts that
// follow. The mount, attached nowhere.
UniqueFd mount_by_data(const std::string& type, const std::string& source,
                       const std::vector<std::string>& data);

// `flags`: OPEN_TREE_CLONE, AT_RECURSIVE, AT_SYMLINK_NOFOLLOW ... An empty
// path is the descriptor itself.
UniqueFd open_tree(int dirfd, const std::string& path, unsigned flags);

// Puts a detached mount onto the place that `target` (O_PATH) stands for.
// `name` is for the Error only.
void attach_mount(int mount_fd, int target, const std::string& name);

// Makes `to`, a private mount, a member of the peer group that `from` is in
// and a slave of the master that `from` has.
void join_mount_group(int from, int to, const std::string& name);

// `propagation`: 0 (leave), MS_PRIVATE, MS_SLAVE, MS_SHARED or MS_UNBINDABLE.
void set_mount_attributes(int mount_fd, uint64_t set, uint64_t clear, uint64_t propagation,
                          const std::string& name);

// Owners show through a detached mount as the user namespace behind `users` maps them.
void map_mount_ids(int mount_fd, int users, const std::string& name);

// The tree of mounts at `path` neither sends nor receives mounts any more.
void make_tree_private(const std::string& path);

// The mount behind `new_root` becomes the root of this process and its
// namespace; the old tree is detached. The working directory is the new root.
// `covered`: a mount stands on the old root itself. `meanwhile`: to be done
// when the new root is one, and the old one still there.
void replace_root(int new_root, bool covered, const std::function<void()>& meanwhile = {});

void detach_mount(const std::string& path);

}  // namespace stasis::kernel
