// A log in the form that CRIU's callers read: "(seconds.micros) ", then
// "Error (...)" or "Warn  (...)" before what isn't mere information.
#pragma once

#include <ctime>
#include <string>

#include "base/error.h"
#include "base/log.h"
#include "base/unique_fd.h"

namespace stasis::rpc {

class LogFile : public Log {
 public:
  // Lines go to `fd`, opened for appending. `verbosity` as in CRIU: 1 errors,
  // 2 warnings, 3 information, 4 all. `who` stands in parentheses: "stasis/dump".
  LogFile(UniqueFd fd, int verbosity, std::string who);

  void error(std::string_view line) { write(LogLevel::error, line); }
  void error(const Error& error);
  void write(LogLevel level, std::string_view line) override;

 private:
  UniqueFd fd_;
  std::string who_;
  timespec start_{};
};

}  // namespace stasis::rpc
