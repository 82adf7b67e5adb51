#include "kernel/mount_api.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <exception>
#include <thread>

#include "kernel/call.h"

namespace stasis::kernel {

FsContext::FsContext(const std::string& type) : type_(type) {
  long fd = call(SYS_fsopen, type.c_str(), FSOPEN_CLOEXEC);
  if (fd == -ENODEV)
    throw Error("mount a file system of type", type)
        .with_errno(ENODEV)
        .hint("This kernel doesn't know the type; load its module or use another kernel.");
  fd_.reset(static_cast<int>(must(fd, "open a context of file system", type)));
}

FsContext FsContext::pick(int mount_fd, const std::string& type) {
  FsContext context;
  context.type_ = type;
  context.fd_.reset(static_cast<int>(
      must(call(SYS_fspick, mount_fd, "", FSPICK_CLOEXEC | FSPICK_EMPTY_PATH | FSPICK_NO_AUTOMOUNT),
           "open the superblock of a mounted", type)));
  return context;
}

void FsContext::check(long result, const std::string& operation, const std::string& subject) {
  if (result >= 0) return;
  std::string said;
  char line[512];
  // One message a read, "e ..." for errors; ENODATA ends them.
  for (long n; (n = call(SYS_read, fd_.get(), line, sizeof line)) > 0;) {
    if (!said.empty()) said += "; ";
    said.append(line, static_cast<size_t>(n));
    while (!said.empty() && said.back() == '\n') said.pop_back();
  }
  auto error = Error(operation, subject).with_errno(static_cast<int>(-result));
  if (!said.empty()) error.because("the kernel says \"" + said + "\"");
  throw error;
}

void FsContext::set(const std::string& option, const std::string& value) {
  check(call(SYS_fsconfig, fd_.get(), FSCONFIG_SET_STRING, option.c_str(), value.c_str(), 0),
        "set the option of a new " + type_, option + "=" + value);
}

void FsContext::set(const std::string& flag) {
  check(call(SYS_fsconfig, fd_.get(), FSCONFIG_SET_FLAG, flag.c_str(), nullptr, 0),
        "set the option of a new " + type_, flag);
}

void FsContext::create() {
  check(call(SYS_fsconfig, fd_.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0),
        "create a file system of type", type_);
}

void FsContext::reconfigure() {
  check(call(SYS_fsconfig, fd_.get(), FSCONFIG_CMD_RECONFIGURE, nullptr, nullptr, 0),
        "change the options of a mounted", type_);
}

UniqueFd FsContext::mount(unsigned attributes) {
  long fd = call(SYS_fsmount, fd_.get(), FSMOUNT_CLOEXEC, attributes);
  check(fd, "mount a file system of type", type_);
  return UniqueFd(static_cast<int>(fd));
}

// A mount needs a place: one in a namespace of its own, gone with the thread
// that it belongs to.
UniqueFd mount_by_data(const std::string& type, const std::string& source,
                       const std::vector<std::string>& data) {
  UniqueFd mount;
  std::exception_ptr failure;
  std::thread helper([&] {
    try {
      constexpr const char* place = "/proc";
      must(call(SYS_unshare, CLONE_NEWNS), "leave", "our mount namespace");
      make_tree_private("/");
      unsigned long flags = 0;
      for (const std::string& options : data) {
        must(call(SYS_mount, source.c_str(), place, type.c_str(), flags, options.c_str()),
             "mount a file system of type", fmt::format("{} with {}", type, options));
        flags = MS_REMOUNT;
      }
      mount = open_tree(AT_FDCWD, place, OPEN_TREE_CLONE);
    } catch (...) {
      failure = std::current_exception();
    }
  });
  helper.join();
  if (failure) std::rethrow_exception(failure);
  return mount;
}

UniqueFd open_tree(int dirfd, const std::string& path, unsigned flags) {
  flags |= OPEN_TREE_CLOEXEC | AT_NO_AUTOMOUNT;
  if (path.empty()) flags |= AT_EMPTY_PATH;
  return UniqueFd(static_cast<int>(must(call(SYS_open_tree, dirfd, path.c_str(), flags),
                                        "take a mount of", path.empty() ? "a descriptor" : path)));
}

void attach_mount(int mount_fd, int target, const std::string& name) {
  must(call(SYS_move_mount, mount_fd, "", target, "",
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH),
       "attach a mount at", name);
}

void join_mount_group(int from, int to, const std::string& name) {
  must(call(SYS_move_mount, from, "", to, "",
            MOVE_MOUNT_SET_GROUP | MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH),
       "copy the mount propagation of", name);
}

void set_mount_attributes(int mount_fd, uint64_t set, uint64_t clear, uint64_t propagation,
                          const std::string& name) {
  mount_attr attributes{};
  attributes.attr_set = set;
  attributes.attr_clr = clear;
  attributes.propagation = propagation;
  must(call(SYS_mount_setattr, mount_fd, "", AT_EMPTY_PATH, &attributes, sizeof attributes),
       "set the attributes of the mount at", name);
}

void map_mount_ids(int mount_fd, int users, const std::string& name) {
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_IDMAP;
  attributes.userns_fd = static_cast<uint64_t>(users);
  must(call(SYS_mount_setattr, mount_fd, "", AT_EMPTY_PATH, &attributes, sizeof attributes),
       "map the ids of the mount at", name);
}

void make_tree_private(const std::string& path) {
  must(call(SYS_mount, nullptr, path.c_str(), nullptr, MS_REC | MS_PRIVATE, nullptr),
       "make mounts private below", path);
}

void replace_root(int new_root, bool covered, const std::function<void()>& meanwhile) {
  must(call(SYS_fchdir, new_root), "enter", "the new root");
  // Both arguments may be the same directory: the old root then lies on top of
  // the new one, where the next calls find it, what covers it first.
  must(call(SYS_pivot_root, ".", "."), "make the restored tree the root", "of the mount namespace");
  if (meanwhile) {
    meanwhile();
    must(call(SYS_fchdir, new_root), "enter", "the new root");
  }
  if (covered) detach_mount(".");
  detach_mount(".");
  // In case it has entered other namespaces, and this one again by its old root.
  if (meanwhile) must(call(SYS_chroot, "."), "enter", "the new root");
  must(call(SYS_chdir, "/"), "enter", "the new root");
}

void detach_mount(const std::string& path) {
  must(call(SYS_umount2, path.c_str(), MNT_DETACH), "unmount", path);
}

}  // namespace stasis::kernel
