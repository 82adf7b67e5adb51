#include "engine/files/reopen.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "kernel/fs.h"

namespace stasis::engine::files {

uint32_t lasting_flags(uint32_t flags) {
  constexpr uint32_t tmpfile = O_TMPFILE & ~O_DIRECTORY;
  // An unnamed file was "opened" as its directory.
  if (flags & tmpfile) flags &= ~static_cast<uint32_t>(O_TMPFILE);
  return flags & ~static_cast<uint32_t>(O_CREAT | O_EXCL | O_TRUNC | O_NOCTTY | O_CLOEXEC | FASYNC);
}

long try_reopen(int fd, uint32_t flags) {
  std::string path = fmt::format("/proc/self/fd/{}", fd);
  // O_NOFOLLOW would mean the link in /proc.
  flags = (lasting_flags(flags) & ~static_cast<uint32_t>(O_NOFOLLOW)) | O_NOCTTY | O_CLOEXEC;
  return kernel::call(SYS_openat, AT_FDCWD, path.c_str(), flags, 0);
}

UniqueFd reopen(int fd, uint32_t flags, std::string_view name) {
  return UniqueFd(static_cast<int>(kernel::must(try_reopen(fd, flags), "open", name)));
}

UniqueFd duplicate(int fd) {
  long copy = kernel::call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 0);
  return UniqueFd(static_cast<int>(kernel::must(copy, "duplicate", "a descriptor")));
}

void raise_descriptor_limit() {
  rlimit limit{};
  kernel::must(kernel::call(SYS_prlimit64, 0, RLIMIT_NOFILE, nullptr, &limit), "read",
               "our limit of descriptors");
  limit.rlim_cur = limit.rlim_max;
  kernel::must(kernel::call(SYS_prlimit64, 0, RLIMIT_NOFILE, &limit, nullptr), "raise",
               "our limit of descriptors");
}

void set_status_flags(int fd, uint32_t flags) {
  kernel::must(kernel::call(SYS_fcntl, fd, F_SETFL, lasting_flags(flags) | (flags & FASYNC)),
               "set the flags of", fmt::format("descriptor {}", fd));
}

}  // namespace stasis::engine::files
