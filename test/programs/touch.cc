// touch MIB: holds that much memory, every page with content of its own, and
// verifies it all when asked.
#include <sys/mman.h>

#include "program.h"

using namespace program;

int main(int argc, char** argv) {
  size_t bytes = (argc > 1 ? strtoul(argv[1], nullptr, 10) : 1024) << 20;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  need(memory != MAP_FAILED, "mmap");
  madvise(memory, bytes, MADV_NOHUGEPAGE);
  fill(memory, bytes, 42);
  serve([&](Verdict& verdict) {
    long wrong = check(memory, bytes, 42);
    verdict.expect(wrong < 0, "word %ld of %zu MiB is wrong", wrong, bytes >> 20);
  });
}
