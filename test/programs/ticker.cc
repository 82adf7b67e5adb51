// ticker [MIB]: ticks every 100 us and keeps the longest gap between two ticks: what a user
// of the container sees of a freeze. Writes it when asked, and starts afresh.
// (In a restored container the time namespace hides the gap: this is for
// checkpoints that leave the container running.) Holds that much memory meanwhile.
#include <sys/mman.h>

#include "program.h"

using namespace program;

int main(int argc, char** argv) {
  if (size_t bytes = argc > 1 ? strtoul(argv[1], nullptr, 10) << 20 : 0) {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(memory != MAP_FAILED, "mmap");
    madvise(memory, bytes, MADV_NOHUGEPAGE);
    fill(memory, bytes, 42);
  }
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
