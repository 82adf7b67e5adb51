#include "rpc/log_file.h"

#include <fmt/format.h>
#include <sys/syscall.h>

#include <algorithm>
#include <iterator>

#include "kernel/call.h"

namespace stasis::rpc {

LogFile::LogFile(UniqueFd fd, int verbosity, std::string who)
    : fd_(std::move(fd)), who_(std::move(who)) {
  level_ = static_cast<LogLevel>(std::clamp(verbosity, 1, 4));
  clock_gettime(CLOCK_TAI, &start_);
}

void LogFile::error(const Error& error) {
  write(LogLevel::error, error.what());
  if (!error.remedy().empty()) write(LogLevel::error, error.remedy());
}

// Every line is one write: a child that the engine clones logs here as well,
// and nothing may be lost when either is killed. That child may live in a time
// namespace, where the monotonic clocks differ from ours.
void LogFile::write(LogLevel level, std::string_view line) {
  if (level > level_) return;
  timespec now{};
  clock_gettime(CLOCK_TAI, &now);
  long micros = (now.tv_sec - start_.tv_sec) * 1'000'000 + (now.tv_nsec - start_.tv_nsec) / 1000;
  fmt::memory_buffer text;
  auto out = std::back_inserter(text);
  // As in CRIU: no times where only errors and warnings are wanted.
  if (level_ > LogLevel::warning)
    fmt::format_to(out, "({:02}.{:06}) ", micros / 1'000'000, micros % 1'000'000);
  if (level == LogLevel::error) fmt::format_to(out, "Error ({}): ", who_);
  if (level == LogLevel::warning) fmt::format_to(out, "Warn  ({}): ", who_);
  fmt::format_to(out, "{}\n", line);
  // A full disk must not turn a dump into a failure of its log.
  kernel::call(SYS_write, fd_.get(), text.data(), text.size());
}

}  // namespace stasis::rpc
