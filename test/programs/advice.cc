// Mappings with every advice and flag that stays with them: the kernel's flags
// of each are the same afterwards.
#include <sys/mman.h>

#include <map>
#include <sstream>

#include "program.h"

using namespace program;

namespace {

constexpr size_t bytes = 1 << 16;
constexpr int map_droppable = 0x08;  // Linux 6.11

std::string flags_of(const void* memory) {
  char start[32];
  snprintf(start, sizeof start, "%lx-", reinterpret_cast<unsigned long>(memory));
  std::istringstream smaps(read_file("/proc/self/smaps"));
  bool here = false;
  for (std::string line; std::getline(smaps, line);) {
    if (line.rfind("VmFlags:", 0) == 0) {
      if (here) return line;
    } else if (line.find('-') != line.npos && line.find('-') < line.find(' ')) {
      here = line.rfind(start, 0) == 0;
    }
  }
  return "none";
}

void* map(int flags) {
  return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
}

}  // namespace

int main() {
  std::map<void*, std::string> before;
  for (int advice : {MADV_DONTFORK, MADV_WIPEONFORK, MADV_DONTDUMP, MADV_SEQUENTIAL, MADV_RANDOM,
                     MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_MERGEABLE}) {
    void* memory = map(MAP_PRIVATE | MAP_NORESERVE);
    need(memory != MAP_FAILED, "mmap");
    // A kernel may be built without huge or merged pages.
    if (madvise(memory, bytes, advice) == 0) before[memory] = "";
    void* wall = mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(wall != MAP_FAILED, "mmap");
  }
  void* droppable = map(map_droppable);
  if (droppable != MAP_FAILED) before[droppable] = "";
  for (auto& [memory, flags] : before) {
    memset(memory, 1, bytes);
    flags = flags_of(memory);
  }
  serve([&](Verdict& verdict) {
    for (auto& [memory, flags] : before)
      verdict.expect(flags_of(memory) == flags, "%p: %s, was %s", memory, flags_of(memory).c_str(),
                     flags.c_str());
  });
}
