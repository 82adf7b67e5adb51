// dev.stasis.snapshot-when: the moment at which a container is ready.
#pragma once

#include <sys/types.h>
#include <time.h>

#include <chrono>
#include <string>
#include <string_view>

#include "hook/container_log.h"

namespace stasis::hook {

struct Readiness {
  enum class Kind { delay, file, listen, log, signal };
  Kind kind = Kind::delay;
  std::chrono::milliseconds delay{0};
  std::string path;   // in the container
  unsigned port = 0;  // TCP
  std::string regex;  // RE2's, found anywhere in a line
};

// "delay=5s" (ms, s, m), "file=/ready", "listen=8080", "log=REGEX", "signal". Throws Error.
Readiness parse_readiness(const std::string& text);

struct Starting {
  pid_t init = 0;
  int pidfd = -1;            // the same
  timespec started{};        // when the program did; an older file is another start's
  std::string signal_place;  // where the process id to send SIGUSR1 to is written
  ContainerLog* log = nullptr;
};
// Until the process is ready; false: it has ended.
bool wait_until_ready(const Readiness& readiness, const Starting& starting);

// Whether /proc/net/tcp or tcp6's `table` has a socket that listens at `port`.
bool listens(std::string_view table, unsigned port);

}  // namespace stasis::hook
