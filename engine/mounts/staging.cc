#include "engine/mounts/staging.h"

#include <sys/syscall.h>

#include "engine/mounts/mountpoint.h"
#include "kernel/fs.h"
#include "kernel/mount_api.h"

namespace stasis::engine::mounts {

namespace {

UniqueFd make_directory(int parent, const char* name) {
  kernel::must(kernel::call(SYS_mkdirat, parent, name, 0700), "create the staging directory", name);
  return kernel::open_at(parent, name, O_PATH | O_DIRECTORY);
}

}  // namespace

Staging::Staging(int place) {
  kernel::FsContext context("tmpfs");
  context.set("source", "stasis");
  context.create();
  mount_ = context.mount(0);
  constexpr unsigned identity = STATX_INO | STATX_MNT_ID;
  auto here = kernel::stat_fd(place, identity);
  auto root = kernel::stat_fd(kernel::open("/", O_PATH | O_DIRECTORY).get(), identity);
  covers_root_ = here.stx_ino == root.stx_ino && here.stx_mnt_id == root.stx_mnt_id;
  kernel::attach_mount(mount_.get(), place, "the staging area");
  directory_ = make_directory(mount_.get(), "sources");
  root_ = make_directory(mount_.get(), "root");
  file_ = kernel::open_at(mount_.get(), "file", O_RDONLY | O_CREAT | O_EXCL, 0600);
}

void Staging::attach(int mount) {
  kernel::attach_mount(mount, is_directory(mount) ? directory_.get() : file_.get(),
                       "the staging area");
}

void Staging::attach_root(int mount) {
  kernel::attach_mount(mount, root_.get(), "the staging area");
}

}  // namespace stasis::engine::mounts
