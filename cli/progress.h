// What a person sees while pages are written: one line on a terminal,
// rewritten at most ten times a second; nothing anywhere else.
#pragma once

#include <cstdint>
#include <ctime>
#include <string>

namespace stasis::cli {

class Progress {
 public:
  explicit Progress(std::string verb);  // "writing"
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void show(uint64_t done, uint64_t total);
  void clear();

 private:
  std::string verb_;
  bool terminal_, shown_ = false;
  timespec last_{};
};

// "1.2 MiB"
std::string human_bytes(uint64_t bytes);

}  // namespace stasis::cli
