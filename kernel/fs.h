// Files and directories: typed wrappers that throw Error, all close-on-exec.
#pragma once

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"
#include "kernel/call.h"

namespace stasis::kernel {

// O_CLOEXEC is always added.
UniqueFd open(const std::string& path, int flags, mode_t mode = 0);
UniqueFd open_at(int dirfd, const std::string& path, int flags, mode_t mode = 0);

// openat2: `resolve` is RESOLVE_IN_ROOT, RESOLVE_BENEATH ... The result is
// -errno instead of a throw in try_open_in, for paths that may be missing.
UniqueFd open_in(int dirfd, const std::string& path, int flags, uint64_t resolve, mode_t mode = 0);
long try_open_in(int dirfd, const std::string& path, int flags, uint64_t resolve, mode_t mode = 0);

// The whole of a (pseudo) file; `limit` bytes at most, more is an error.
constexpr size_t read_limit = 64 << 20;
std::string read_file(const std::string& path, size_t limit = read_limit);
std::string read_file_at(int dirfd, const std::string& path, size_t limit = read_limit);
std::string read_all(int fd, std::string_view name, size_t limit = read_limit);

// The names in a directory, "." and ".." left out.
std::vector<std::string> entries(const std::string& path);

// One write of the whole text into an existing (pseudo) file.
void write_file(const std::string& path, std::string_view text);
void write_file_at(int dirfd, const std::string& path, std::string_view text);

// All bytes, at the file's position or at `offset`.
void write_all(int fd, std::string_view bytes, std::string_view name);
void pwrite_all(int fd, const void* bytes, size_t size, off_t offset, std::string_view name);

std::string read_link(const std::string& path);
std::string read_link_at(int dirfd, const std::string& path);

// AT_EMPTY_PATH on the descriptor itself.
struct statx stat_fd(int fd, unsigned mask = STATX_BASIC_STATS);

// Duplicate of descriptor `fd` of the process behind `pidfd` (same open file).
UniqueFd pidfd_open(pid_t pid);
UniqueFd pidfd_getfd(int pidfd, int fd);

}  // namespace stasis::kernel
