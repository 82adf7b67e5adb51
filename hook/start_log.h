// /run/stasis/ID/restore.log: what becomes of a container's start from a
// checkpoint, and whoever has to hear of it.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

#include "base/error.h"
#include "base/log.h"
#include "base/unique_fd.h"

namespace stasis::hook {

class StartLog : public Log {
 public:
  StartLog(std::string_view state_dir, const std::string& id);
  // Begins it anew for the container of this init, and holds it until all that have
  // it open have ended, or let_go(). False: a hook that was called for it before has
  // it. Throws where another container of this name has it.
  bool begin(pid_t init);
  void let_go();
  void write(LogLevel level, std::string_view line) override;
  // The start has failed. On the container's standard error too, where whoever
  // reads its log sees it: all that a runtime tells is that the start failed.
  void fail(int container_stderr, const std::string& what);

 private:
  std::string id_;
  UniqueFd file_;
};

// Waits until nobody holds the log. The failure in it; empty: none.
std::string wait_for_failure(std::string_view state_dir, const std::string& id);

std::string one_line(const Error& error);

UniqueFd stderr_of(pid_t init);

}  // namespace stasis::hook
