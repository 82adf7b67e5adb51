// Progress and diagnostics of one operation. Engine code gets a Log& and says
// what it does; the door that owns the operation decides where that goes (a
// CRIU-style log file, stderr, nowhere). Errors are thrown, not logged: doors
// log them. There is no global logger.
#pragma once

#include <fmt/core.h>

#include <string_view>
#include <utility>

namespace stasis {

enum class LogLevel { error = 1, warning = 2, info = 3, debug = 4 };

class Log {
 public:
  virtual ~Log() = default;

  template <typename... Args>
  void warn(fmt::format_string<Args...> format, Args&&... args) {
    write(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
  }
  template <typename... Args>
  void info(fmt::format_string<Args...> format, Args&&... args) {
    if (level_ >= LogLevel::info)
      write(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
  }
  template <typename... Args>
  void debug(fmt::format_string<Args...> format, Args&&... args) {
    if (level_ >= LogLevel::debug)
      write(LogLevel::debug, fmt::format(format, std::forward<Args>(args)...));
  }

  virtual void write(LogLevel level, std::string_view line) = 0;

 protected:
  LogLevel level_ = LogLevel::info;
};

// Swallows everything: for tests and callers that want only the outcome.
class NullLog : public Log {
 public:
  NullLog() { level_ = LogLevel::error; }
  void write(LogLevel, std::string_view) override {}
};

}  // namespace stasis
