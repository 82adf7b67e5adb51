#include "kernel/directories.h"

#include <dirent.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace stasis::kernel {

bool exists(const std::string& path) {
  return call(SYS_faccessat, AT_FDCWD, path.c_str(), F_OK) == 0;
}

void make_directories(const std::string& path, mode_t mode) {
  for (size_t end = 0; end != path.npos;) {
    end = path.find('/', end + 1);
    std::string part = path.substr(0, end);
    long made = call(SYS_mkdirat, AT_FDCWD, part.c_str(), mode);
    if (made != -EEXIST) must(made, "create", part);
  }
}

std::vector<std::string> entries(int directory, std::string_view name) {
  std::vector<std::string> names;
  alignas(dirent64) char buffer[8192];
  must(call(SYS_lseek, directory, 0, SEEK_SET), "rewind", name);
  for (;;) {
    long size = must(call(SYS_getdents64, directory, buffer, sizeof buffer), "list", name);
    if (size == 0) return names;
    for (long at = 0; at < size;) {
      const auto* entry = reinterpret_cast<const dirent64*>(buffer + at);
      std::string_view found = entry->d_name;
      if (found != "." && found != "..") names.emplace_back(found);
      at += entry->d_reclen;
    }
  }
}

void check_roots_own(Error refusal, const std::string& what, const struct statx& stat,
                     bool shared) {
  if (stat.stx_uid != 0)
    throw refusal.because(what + " doesn't belong to root").hint("chown root:root it");
  bool sticky = shared && S_ISDIR(stat.stx_mode) && (stat.stx_mode & S_ISVTX);
  if ((stat.stx_mode & (S_IWGRP | S_IWOTH)) && !sticky)
    throw refusal.because("others than root may write to " + what).hint("chmod go-w it");
}

}  // namespace stasis::kernel
