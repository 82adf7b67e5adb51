#include "cli/progress.h"

#include <fmt/core.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <utility>

namespace stasis::cli {

Progress::Progress(std::string verb) : verb_(std::move(verb)), terminal_(isatty(STDERR_FILENO)) {}

void Progress::show(uint64_t done, uint64_t total) {
  if (!terminal_) return;
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  int64_t since = (now.tv_sec - last_.tv_sec) * 1000 + (now.tv_nsec - last_.tv_nsec) / 1'000'000;
  if (shown_ && since < 100) return;
  last_ = now;
  shown_ = true;
  fmt::print(stderr, "\r{} {} of {}\033[K", verb_, human_bytes(done), human_bytes(total));
}

void Progress::clear() {
  if (shown_) fmt::print(stderr, "\r\033[K");
  shown_ = false;
}

std::string human_bytes(uint64_t bytes) {
  constexpr std::array units = {"KiB", "MiB", "GiB", "TiB"};
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < units.size(); ++unit) value /= 1024;
  return fmt::format("{:.1f} {}", value, units[unit]);
}

}  // namespace stasis::cli
