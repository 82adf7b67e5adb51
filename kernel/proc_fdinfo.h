// /proc/PID/fdinfo/N.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace stasis::kernel {

struct FdInfo {
  int64_t pos = 0;
  int flags = 0;  // O_*; O_CLOEXEC is the descriptor's own flag
  int mnt_id = 0;
  std::optional<uint64_t> ino;  // Linux 5.14 and newer

  // All other lines in order: {"eventfd-count", "5"}, {"tfd", "4 events: ..."},
  // {"inotify", "wd:1 ino:..."}, {"lock", "1: POSIX ..."}. A key may repeat.
  struct Line {
    std::string key, value;
  };
  std::vector<Line> lines;

  // The first value of `key`, or null.
  const std::string* find(std::string_view key) const;
};

FdInfo parse_fdinfo(std::string_view text);

}  // namespace stasis::kernel
