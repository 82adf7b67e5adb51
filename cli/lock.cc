#include "cli/lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "kernel/fs.h"

namespace stasis::cli {
namespace {

void make_directory(const std::string& path) {
  long made = kernel::call(SYS_mkdirat, AT_FDCWD, path.c_str(), 0700);
  if (made != -EEXIST) kernel::must(made, "create", path);
}

}  // namespace

ContainerLock::ContainerLock(const std::string& id, const std::string& state_dir)
    : directory_(state_dir + "/" + id), path_(directory_ + "/lock") {
  // Whoever held the lock removes the file; then ours isn't the one at that
  // path any more, and the next caller would lock another.
  for (;;) {
    make_directory(state_dir);
    make_directory(directory_);
    long opened = kernel::call(SYS_openat, AT_FDCWD, path_.c_str(),
                               O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (opened == -ENOENT) continue;  // the directory went with the last holder
    fd_.reset(static_cast<int>(kernel::must(opened, "open", path_)));
    long locked = kernel::call(SYS_flock, fd_.get(), LOCK_EX | LOCK_NB);
    if (locked == -EWOULDBLOCK)
      throw Error("work on", id)
          .because("another stasis is working on it")
          .hint("wait until it has finished");
    kernel::must(locked, "lock", path_);
    if (kernel::stat_fd(fd_.get()).stx_nlink > 0) return;
  }
}

ContainerLock::~ContainerLock() {
  kernel::call(SYS_unlinkat, AT_FDCWD, path_.c_str(), 0);
  kernel::call(SYS_unlinkat, AT_FDCWD, directory_.c_str(), AT_REMOVEDIR);  // when it is empty
}

}  // namespace stasis::cli
