#pragma once

#include <chrono>
#include <cstdint>

namespace stasis::engine {

// Runs from its making on.
class Stopwatch {
 public:
  uint32_t microseconds() const {
    return static_cast<uint32_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start_).count());
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

}  // namespace stasis::engine
