// A process without the kernel's own pages (vdso and its data).
#include <sys/auxv.h>
#include <sys/mman.h>

#include <sstream>

#include "program.h"

using namespace program;

namespace {

template <typename Visit>
void for_each_kernel_page(Visit visit) {
  std::istringstream maps(read_file("/proc/self/maps"));
  for (std::string line; std::getline(maps, line);) {
    unsigned long start = 0, end = 0;
    if (line.find("[vdso]") == line.npos && line.find("[vvar") == line.npos) continue;
    sscanf(line.c_str(), "%lx-%lx", &start, &end);
    visit(start, end);
  }
}

}  // namespace

int main() {
  for_each_kernel_page([](unsigned long start, unsigned long end) {
    need(munmap(reinterpret_cast<void*>(start), end - start) == 0, "munmap");
  });
  serve([](Verdict& verdict) {
    for_each_kernel_page([&](unsigned long start, unsigned long) {
      verdict.expect(false, "the kernel's page at %lx is there again", start);
    });
  });
}
