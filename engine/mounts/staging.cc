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
  covers_root_ = is_same_place(place, kernel::open("/", O_PATH | O_DIRECTORY).get());
  kernel::attach_mount(mount_.get(), place, "the staging area");
  directory_ = make_directory(mount_.get(), "sources");
  root_ = make_directory(mount_.get(), "root");
  file_ = kernel::open_at(mount_.get(), "file", O_RDONLY | O_CREAT | O_EXCL, 0600);
}

void Staging::enter() const {
  kernel::must(kernel::call(SYS_fchdir, mount_.get()), "enter", "the staging area");
}

Staging Staging::copied() const {
  Staging copy;
  copy.covers_root_ = covers_root_;
  copy.mount_ = kernel::open(".", O_PATH | O_DIRECTORY);
  copy.directory_ = kernel::open("sources", O_PATH | O_DIRECTORY);
  copy.root_ = kernel::open("root", O_PATH | O_DIRECTORY);
  copy.file_ = kernel::open("file", O_PATH);
  return copy;
}

void Staging::plant(int mount, int number) {
  std::string name = std::to_string(number);
  UniqueFd place = is_directory(mount)
                       ? make_directory(mount_.get(), name.c_str())
                       : kernel::open_at(mount_.get(), name, O_RDONLY | O_CREAT | O_EXCL, 0600);
  kernel::attach_mount(mount, place.get(), "the staging area");
}

UniqueFd Staging::planted(int number) const {
  return kernel::open_at(mount_.get(), std::to_string(number), O_PATH);
}

void Staging::attach(int mount) {
  kernel::attach_mount(mount, is_directory(mount) ? directory_.get() : file_.get(),
                       "the staging area");
}

UniqueFd Staging::placed() const { return kernel::open_at(mount_.get(), "sources", O_PATH); }

void Staging::attach_root(int mount) {
  kernel::attach_mount(mount, root_.get(), "the staging area");
}

}  // namespace stasis::engine::mounts
