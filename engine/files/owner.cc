#include "engine/files/owner.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>

#include "base/scope_exit.h"
#include "kernel/fs.h"
#include "kernel/proc_status.h"

namespace stasis::engine::files {

namespace {

constexpr int get_owner_uids = 17;  // F_GETOWNER_UIDS, which no header of libc has

kernel::ProcStatus status_of(pid_t pid) {
  return kernel::parse_status(kernel::read_file(fmt::format("/proc/{}/status", pid)));
}

}  // namespace

pid_t pid_inside(pid_t root, pid_t pid) {
  std::string path = fmt::format("/proc/{}/status", pid);
  if (kernel::call(SYS_faccessat, AT_FDCWD, path.c_str(), R_OK) < 0) return 0;
  size_t level = status_of(root).ns_pid.size() - 1;
  auto pids = status_of(pid).ns_pid;
  return level < pids.size() ? pids[level] : 0;
}

image::FownEntry dump_owner(int fd, uint32_t flags, pid_t root) {
  image::FownEntry entry;
  entry.set_uid(0);
  entry.set_euid(0);
  entry.set_signum(0);
  entry.set_pid_type(0);
  entry.set_pid(0);
  if (flags & O_PATH) return entry;
  entry.set_signum(static_cast<uint32_t>(
      kernel::must(kernel::call(SYS_fcntl, fd, F_GETSIG, 0), "read the signal of", "a file")));
  f_owner_ex owner{};
  kernel::must(kernel::call(SYS_fcntl, fd, F_GETOWN_EX, &owner), "read the owner of", "a file");
  if (owner.pid == 0) return entry;
  pid_t pid = pid_inside(root, owner.pid);
  if (pid == 0) return entry;
  std::array<uint32_t, 2> uids{};
  kernel::must(kernel::call(SYS_fcntl, fd, get_owner_uids, uids.data()), "read the owner of",
               "a file");
  entry.set_pid_type(static_cast<uint32_t>(owner.type));
  entry.set_pid(static_cast<uint32_t>(pid));
  const auto ids = userns::IdMap::of(root);
  entry.set_uid(ids.uid_inside(uids[0], "a file's signals"));
  entry.set_euid(ids.uid_inside(uids[1], "a file's signals"));
  return entry;
}

void set_owner(int fd, const image::FownEntry& owner, const std::map<pid_t, pid_t>& tasks,
               const userns::IdMap& ids) {
  auto task = tasks.find(static_cast<pid_t>(owner.pid()));
  if (task == tasks.end())
    throw Error("restore the owner of", "a file")
        .because(fmt::format("there is no process {} in the image", owner.pid()));
  f_owner_ex wanted{static_cast<decltype(f_owner_ex::type)>(owner.pid_type()), task->second};
  // The kernel keeps the credentials of the caller: this thread takes the
  // dumped ones on for one call. The saved uid brings ours back.
  std::array<uid_t, 3> uids{};
  kernel::must(kernel::call(SYS_getresuid, &uids[0], &uids[1], &uids[2]), "read", "our uids");
  uid_t uid = ids.uid_outside(owner.uid(), "a file's signals"),
        euid = ids.uid_outside(owner.euid(), "a file's signals");
  bool change = uid != uids[0] || euid != uids[1];
  if (change)
    kernel::must(kernel::call(SYS_setresuid, uid, euid, uids[1]), "take on",
                 fmt::format("uid {}", euid));
  ScopeExit back([&] {
    if (change) kernel::call(SYS_setresuid, uids[0], uids[1], uids[2]);
  });
  kernel::must(kernel::call(SYS_fcntl, fd, F_SETOWN_EX, &wanted), "restore the owner of", "a file");
}

}  // namespace stasis::engine::files
