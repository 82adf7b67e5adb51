// Monotonic clocks never go back and don't jump further than the test says it
// stood still (argument, in ms), however long the machine was up before.
#include "program.h"

using namespace program;

int main(int argc, char** argv) {
  uint64_t tolerated = (argc > 1 ? strtoul(argv[1], nullptr, 10) : 60000) * 1000;
  const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_COARSE};
  uint64_t last[3], worst_jump[3] = {};
  bool back[3] = {};
  for (int i = 0; i < 3; i++) last[i] = now_us(clocks[i]);
  auto watch = [&] {
    sleep_us(1000);
    for (int i = 0; i < 3; i++) {
      uint64_t now = now_us(clocks[i]);
      if (now < last[i]) back[i] = true;
      if (now > last[i] && now - last[i] > worst_jump[i]) worst_jump[i] = now - last[i];
      last[i] = now;
    }
  };
  serve(
      [&](Verdict& verdict) {
        for (int i = 0; i < 3; i++) {
          verdict.expect(!back[i], "clock %d went back", clocks[i]);
          verdict.expect(worst_jump[i] < tolerated, "clock %d jumped by %llu us", clocks[i],
                         static_cast<unsigned long long>(worst_jump[i]));
        }
      },
      watch);
}
