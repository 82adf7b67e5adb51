// dev.stasis.snapshot-when: the moment at which a container is ready.
#pragma once

#include <sys/types.h>
#include <time.h>

#include <chrono>
#include <string>
#include <string_view>

namespace stasis::hook {

struct Readiness {
  enum class Kind { delay, file, listen, signal };
  Kind kind = Kind::delay;
  std::chrono::milliseconds delay{0};
  std::string path;   // in the container
  unsigned port = 0;  // TCP
};

// "delay=5s" (ms, s, m), "file=/ready", "listen=8080", "signal". Throws Error.
Readiness parse_readiness(const std::string& text);

// Until the process `init` (also `pidfd`) is ready; false: it has ended. `started`: when the
// program did; an older file is another start's. `signal_place`: where the
// process id to send SIGUSR1 to is written.
bool wait_until_ready(const Readiness& readiness, pid_t init, int pidfd, const timespec& started,
                      const std::string& signal_place);

// Whether /proc/net/tcp or tcp6's `table` has a socket that listens at `port`.
bool listens(std::string_view table, unsigned port);

}  // namespace stasis::hook
