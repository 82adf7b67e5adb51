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
    : path_(state_dir + "/.locks/" + id) {
  // Whoever held the lock removes the file; then ours isn't the one at that
  // path any more, and the next caller would lock another.
  make_directory(state_dir);
  make_directory(state_dir + "/.locks");
  for (;;) {
    long opened = kernel::call(SYS_openat, AT_FDCWD, path_.c_str(),
                               O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
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

ContainerLock::~ContainerLock() { kernel::call(SYS_unlinkat, AT_FDCWD, path_.c_str(), 0); }

}  // namespace stasis::cli
