#include "kernel/fs.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <cstring>

#include "kernel/directories.h"

namespace stasis::kernel {

UniqueFd open(const std::string& path, int flags, mode_t mode) {
  return open_at(AT_FDCWD, path, flags, mode);
}

UniqueFd open_at(int dirfd, const std::string& path, int flags, mode_t mode) {
  long fd = call(SYS_openat, dirfd, path.c_str(), flags | O_CLOEXEC, mode);
  return UniqueFd(static_cast<int>(must(fd, "open", path)));
}

long try_open_in(int dirfd, const std::string& path, int flags, uint64_t resolve, mode_t mode) {
  open_how how{};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC);
  how.mode = mode;
  how.resolve = resolve;
  return call(SYS_openat2, dirfd, path.c_str(), &how, sizeof how);
}

UniqueFd open_in(int dirfd, const std::string& path, int flags, uint64_t resolve, mode_t mode) {
  return UniqueFd(
      static_cast<int>(must(try_open_in(dirfd, path, flags, resolve, mode), "open", path)));
}

std::vector<std::string> entries(const std::string& path) {
  return entries(open(path, O_RDONLY | O_DIRECTORY).get(), path);
}

std::string read_all(int fd, std::string_view name, size_t limit) {
  std::string text;
  size_t used = 0;
  for (;;) {
    if (text.size() - used < 4096) text.resize(used + 16384 + used);
    long n = call(SYS_read, fd, text.data() + used, text.size() - used);
    if (n == -EINTR) continue;
    must(n, "read", name);
    if (n == 0) break;
    used += static_cast<size_t>(n);
    if (used > limit)
      throw Error("read", std::string(name))
          .because("larger than " + std::to_string(limit) + " bytes");
  }
  text.resize(used);
  return text;
}

std::string read_file(const std::string& path, size_t limit) {
  return read_file_at(AT_FDCWD, path, limit);
}

std::string read_file_at(int dirfd, const std::string& path, size_t limit) {
  UniqueFd fd = open_at(dirfd, path, O_RDONLY);
  return read_all(fd.get(), path, limit);
}

void write_file(const std::string& path, std::string_view text) {
  write_file_at(AT_FDCWD, path, text);
}

void write_file_at(int dirfd, const std::string& path, std::string_view text) {
  UniqueFd fd = open_at(dirfd, path, O_WRONLY);
  long n = must(call(SYS_write, fd.get(), text.data(), text.size()), "write", path);
  if (static_cast<size_t>(n) != text.size()) throw Error("write", path).because("short write");
}

void write_all(int fd, std::string_view bytes, std::string_view name) {
  while (!bytes.empty()) {
    long n = call(SYS_write, fd, bytes.data(), bytes.size());
    if (n == -EINTR) continue;
    bytes.remove_prefix(static_cast<size_t>(must(n, "write", name)));
  }
}

void pwrite_all(int fd, const void* bytes, size_t size, off_t offset, std::string_view name) {
  auto from = static_cast<const char*>(bytes);
  while (size > 0) {
    long n = call(SYS_pwrite64, fd, from, size, offset);
    if (n == -EINTR) continue;
    must(n, "write", name);
    from += n;
    offset += n;
    size -= static_cast<size_t>(n);
  }
}

std::string read_link(const std::string& path) { return read_link_at(AT_FDCWD, path); }

std::string read_link_at(int dirfd, const std::string& path) {
  char target[PATH_MAX];
  long n =
      must(call(SYS_readlinkat, dirfd, path.c_str(), target, sizeof target), "read link", path);
  return {target, static_cast<size_t>(n)};
}

struct statx stat_fd(int fd, unsigned mask) {
  struct statx result{};
  must(call(SYS_statx, fd, "", AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, mask, &result),
       "stat", "descriptor " + std::to_string(fd));
  return result;
}

UniqueFd pidfd_open(pid_t pid) {
  return UniqueFd(static_cast<int>(
      must(call(SYS_pidfd_open, pid, 0), "open a pidfd of process", std::to_string(pid))));
}

UniqueFd pidfd_getfd(int pidfd, int fd) {
  return UniqueFd(static_cast<int>(
      must(call(SYS_pidfd_getfd, pidfd, fd, 0), "duplicate a descriptor", std::to_string(fd))));
}

}  // namespace stasis::kernel
