// Threads that are in functions of the vdso nearly all of the time, and hold
// what they are told against what system calls say.
#include <sched.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include <atomic>
#include <thread>

#include "program.h"

using namespace program;

namespace {

std::atomic<uint64_t> rounds[2];
std::atomic<int> wrong{0};  // line of the first wrong finding

uint64_t told_by_kernel(clockid_t clock) {
  timespec t{};
  syscall(SYS_clock_gettime, clock, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000 + static_cast<uint64_t>(t.tv_nsec) / 1000;
}

int wrong_in_round() {
  for (clockid_t clock : {CLOCK_MONOTONIC, CLOCK_BOOTTIME}) {
    uint64_t before = told_by_kernel(clock);
    for (int i = 0; i < 100; i++) now_us(clock);
    uint64_t now = now_us(clock);
    if (now < before || now > told_by_kernel(clock)) return __LINE__;
  }
  timeval day{};
  gettimeofday(&day, nullptr);
  time_t second = time(nullptr);
  if (second < day.tv_sec - 1 || second > day.tv_sec + 100) return __LINE__;
  timespec step{};
  if (clock_getres(CLOCK_MONOTONIC, &step) != 0 || step.tv_nsec != 1) return __LINE__;
  if (sched_getcpu() < 0) return __LINE__;
  return 0;
}

}  // namespace

int main() {
  for (auto& count : rounds)
    std::thread([&count] {
      for (;; count++)
        if (int line = wrong_in_round(); line && !wrong) wrong = line;
    }).detach();
  serve([](Verdict& verdict) {
    for (auto& count : rounds) {
      uint64_t before = count;
      for (int n = 0; n < 3000 && count < before + 2; n++) sleep_us(10000);
      verdict.expect(count >= before + 2, "a thread doesn't go on");
    }
    verdict.expect(wrong == 0, "line %d", wrong.load());
  });
}
