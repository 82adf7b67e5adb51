// What the small test programs share. A program runs as a container's init,
// with a directory of the host bound at /data, and talks through files there:
//   ready    written by the program once it has set itself up
//   ask      written by the test: any word, a new one each time
//   answer   written by the program: "WORD ok" or "WORD FAIL: why"
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>

namespace program {

// Collects what is wrong; the first finding is the answer.
class Verdict {
 public:
  bool ok() const { return why_.empty(); }
  const std::string& why() const { return why_; }

  [[gnu::format(printf, 3, 4)]] bool expect(bool holds, const char* format, ...) {
    if (holds || !why_.empty()) return holds;
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    why_ = text;
    return false;
  }

 private:
  std::string why_;
};

inline void write_file(const char* path, const std::string& text) {
  std::string fresh = std::string(path) + ".new";
  int fd = open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0 || write(fd, text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    _exit(101);
  close(fd);
  rename(fresh.c_str(), path);
}

inline std::string read_file(const char* path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) > 0;) text.append(buffer, n);
  close(fd);
  return text;
}

// Leaves at once where the set-up itself doesn't work.
inline void need(bool holds, const char* what) {
  if (holds) return;
  write_file("/data/ready", std::string("FAIL: ") + what + ": " + strerror(errno));
  _exit(100);
}

inline void sleep_us(long us) {
  timespec pause = {us / 1000000, us % 1000000 * 1000};
  while (nanosleep(&pause, &pause) && errno == EINTR) {
  }
}

inline uint64_t now_us(clockid_t clock = CLOCK_MONOTONIC) {
  timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec * 1000000ull + t.tv_nsec / 1000;
}

// Says "ready" and answers each question with what `verify` finds; `work`
// runs in between (it should take a few milliseconds).
[[noreturn]] inline void serve(
    const std::function<void(Verdict&)>& verify,
    const std::function<void()>& work = [] { sleep_us(5000); }) {
  std::string last;
  struct stat seen{};
  write_file("/data/ready", "ready\n");
  for (;;) {
    work();
    // An old question isn't opened: nobody is to find it open.
    struct stat now{};
    if (stat("/data/ask", &now) != 0 ||
        (now.st_ino == seen.st_ino && now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec))
      continue;
    seen = now;
    std::string word = read_file("/data/ask");
    if (word.empty() || word == last) continue;
    last = word;
    Verdict verdict;
    verify(verdict);
    write_file("/data/answer", word + (verdict.ok() ? " ok" : " FAIL: " + verdict.why()) + "\n");
  }
}

// A pattern that differs for each seed and place.
inline uint64_t pattern(uint64_t seed, uint64_t i) {
  uint64_t x = seed * 0x9e3779b97f4a7c15ull + i;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

inline void fill(void* at, size_t bytes, uint64_t seed) {
  auto* words = static_cast<uint64_t*>(at);
  for (size_t i = 0; i < bytes / 8; i++) words[i] = pattern(seed, i);
}

// The index of the first wrong word, or -1.
inline long check(const void* at, size_t bytes, uint64_t seed) {
  auto* words = static_cast<const uint64_t*>(at);
  for (size_t i = 0; i < bytes / 8; i++)
    if (words[i] != pattern(seed, i)) return static_cast<long>(i);
  return -1;
}

}  // namespace program
