// Memory of every common kind, filled with patterns that are verified all the
// time, by the program itself and by a child that shares some of it.
#include <sys/mman.h>
#include <sys/wait.h>

#include <atomic>
#include <vector>

#include "program.h"

using namespace program;

namespace {

struct Region {
  const char* name;
  void* at;
  size_t bytes;
  uint64_t seed;
  int protection;
};

struct Shared {
  std::atomic<uint64_t> child_ticks{0};
  std::atomic<bool> child_damaged{false};
};

std::vector<Region> regions;

void* map(const char* name, size_t bytes, int protection, int flags, int fd = -1, off_t at = 0) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, fd, at);
  need(memory != MAP_FAILED, name);
  uint64_t seed = regions.size() + 100;
  fill(memory, bytes, seed);
  if (protection != (PROT_READ | PROT_WRITE)) need(mprotect(memory, bytes, protection) == 0, name);
  regions.push_back({name, memory, bytes, seed, protection});
  return memory;
}

// The unreadable ones only where nobody looks at our mappings meanwhile.
void verify_regions(Verdict& verdict, bool unreadable_too) {
  for (const Region& region : regions) {
    bool hidden = !(region.protection & PROT_READ);
    if (hidden && !unreadable_too) continue;
    if (hidden) mprotect(region.at, region.bytes, PROT_READ);
    long wrong = check(region.at, region.bytes, region.seed);
    if (hidden) mprotect(region.at, region.bytes, region.protection);
    verdict.expect(wrong < 0, "%s: word %ld of %zu bytes", region.name, wrong, region.bytes);
  }
}

int scratch_file(const char* path, size_t bytes, uint64_t seed) {
  int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  need(fd >= 0, path);
  std::vector<uint64_t> content(bytes / 8);
  fill(content.data(), bytes, seed);
  need(write(fd, content.data(), bytes) == static_cast<ssize_t>(bytes), path);
  return fd;
}

}  // namespace

int main() {
  constexpr size_t mib = 1 << 20;
  map("private", 8 * mib, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  map("private, unreadable", mib, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS);
  map("private, read-only", mib, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS);
  map("shared", 4 * mib, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);

  int file = scratch_file("/data/mapped", mib, 7);
  map("shared file", mib / 2, PROT_READ | PROT_WRITE, MAP_SHARED, file);
  map("private file, written", mib / 4, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, mib / 2);
  void* clean = mmap(nullptr, mib / 4, PROT_READ, MAP_PRIVATE, file, 3 * mib / 4);
  need(clean != MAP_FAILED, "private file, clean");
  auto* half = static_cast<char*>(
      mmap(nullptr, mib, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  for (size_t page = 0; page < mib; page += 8192) half[page] = 'x';  // every other page touched
  munmap(half + mib / 2, 4096);                                      // and a hole
  char* grows = static_cast<char*>(mmap(nullptr, 262144, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1, 0));
  need(grows != MAP_FAILED, "growsdown");
  fill(grows, 4096, 9);

  std::vector<uint64_t> heap(mib / 8);
  fill(heap.data(), mib, 5);
  uint64_t stack[8192];
  fill(stack, sizeof stack, 6);

  auto* shared = static_cast<Shared*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  new (shared) Shared;
  pid_t child = fork();
  need(child >= 0, "fork");
  if (child == 0) {
    for (;; shared->child_ticks++) {
      Verdict mine;
      verify_regions(mine, false);
      if (check(heap.data(), mib, 5) >= 0 || !mine.ok()) shared->child_damaged = true;
      sleep_us(5000);
    }
  }
  serve([&](Verdict& verdict) {
    verify_regions(verdict, true);
    verdict.expect(check(heap.data(), mib, 5) < 0, "heap");
    verdict.expect(check(stack, sizeof stack, 6) < 0, "stack");
    verdict.expect(check(grows, 4096, 9) < 0, "growing mapping");
    auto* words = static_cast<uint64_t*>(clean);
    for (size_t i = 0; i < mib / 4 / 8; i++)
      verdict.expect(words[i] == pattern(7, 3 * mib / 4 / 8 + i), "clean file mapping");
    for (size_t page = 0; page < mib; page += 4096) {
      if (page == mib / 2) continue;
      verdict.expect(half[page] == (page % 8192 ? 0 : 'x'), "half-touched memory at %zu", page);
    }
    verdict.expect(!shared->child_damaged, "the child found its memory damaged");
    uint64_t ticks = shared->child_ticks;
    for (int i = 0; i < 600 && shared->child_ticks == ticks; i++) sleep_us(10000);
    verdict.expect(shared->child_ticks > ticks, "the child no longer shares memory or runs");
  });
}
