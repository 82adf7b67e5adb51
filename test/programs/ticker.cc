// Ticks every 100 us and keeps the longest gap between two ticks: what a user
// of the container sees of a freeze. Writes it when asked, and starts afresh.
// (In a restored container the time namespace hides the gap: this is for
// checkpoints that leave the container running.)
#include "program.h"

using namespace program;

int main() {
  uint64_t last = now_us(), longest = 0;
  int gaps = open("/data/gaps", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  need(gaps >= 0, "open /data/gaps");
  auto tick = [&] {
    for (int i = 0; i < 20; i++) {
      usleep(100);
      uint64_t now = now_us();
      if (now - last > longest) longest = now - last;
      last = now;
    }
  };
  auto verify = [&](Verdict&) {
    dprintf(gaps, "%llu\n", static_cast<unsigned long long>(longest));
    longest = 0;
    last = now_us();
  };
  serve(verify, tick);
}
