// A server that forks its workers: they share most memory with it, and each has
// changed, grown, given back and unmapped some. prefork WORKERS [MIB]
#include <sys/mman.h>
#include <sys/wait.h>

#include <atomic>

#include "program.h"

using namespace program;

namespace {

constexpr size_t page = 4096;
constexpr uint64_t common_seed = 3, heap_seed = 4;
constexpr int worker_seed = 1000;

struct Report {
  std::atomic<uint64_t> rounds{0};
  std::atomic<int> wrong{0};  // line of the first wrong finding
};

char* block;
size_t block_size;
char* heap;
constexpr size_t heap_size = 64 * page, growth = 32 * page;

// Where in the block each worker does what; the same pages for none of them.
size_t changed(int worker) { return (8 + 4 * static_cast<size_t>(worker)) * page; }
size_t given_back(int worker) { return changed(worker) + page; }
constexpr size_t unmapped = 0, protected_page = 2 * page;

int wrong_in_worker(int worker, const char* grown) {
  uint64_t seed = worker_seed + static_cast<uint64_t>(worker);
  if (check(block + changed(worker), page, seed) >= 0) return __LINE__;
  for (size_t i = 0; i < page; i++)
    if (block[given_back(worker) + i] != 0) return __LINE__;
  auto* words = reinterpret_cast<uint64_t*>(block);
  size_t before = changed(worker) / 8, after = (given_back(worker) + page) / 8;
  for (size_t i = page / 8; i < block_size / 8; i++)
    if ((i < before || i >= after) && words[i] != pattern(common_seed, i)) return __LINE__;
  if (check(heap, heap_size, heap_seed) >= 0) return __LINE__;
  return check(grown, growth, seed) < 0 ? 0 : __LINE__;
}

[[noreturn]] void work(int worker, Report& report) {
  uint64_t seed = worker_seed + static_cast<uint64_t>(worker);
  fill(block + changed(worker), page, seed);
  madvise(block + given_back(worker), page, MADV_DONTNEED);
  munmap(block + unmapped, page);
  mprotect(block + protected_page, page, PROT_READ);
  char* grown = static_cast<char*>(sbrk(growth));
  fill(grown, growth, seed);
  for (;; report.rounds++) {
    int wrong = wrong_in_worker(worker, grown);
    if (wrong && !report.wrong) report.wrong = wrong;
    sleep_us(100000);
  }
}

}  // namespace

int main(int argc, char** argv) {
  int workers = argc > 1 ? atoi(argv[1]) : 4;
  block_size = static_cast<size_t>(argc > 2 ? atoi(argv[2]) : 8) << 20;
  need(workers > 0 && given_back(workers) < block_size, "WORKERS or MIB");
  auto* reports =
      static_cast<Report*>(mmap(nullptr, sizeof(Report) * workers, PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  block = static_cast<char*>(
      mmap(nullptr, block_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  need(block != MAP_FAILED, "memory");
  fill(block, block_size, common_seed);
  heap = static_cast<char*>(sbrk(heap_size));
  fill(heap, heap_size, heap_seed);
  for (int i = 0; i < workers; i++) {
    pid_t pid = fork();
    need(pid >= 0, "fork");
    if (pid > 0) continue;
    if (i == 1 && fork() > 0) {  // one generation more
      for (;;) pause();
    }
    work(i, reports[i]);
  }
  for (int i = 0; i < workers; i++)
    while (reports[i].rounds < 2) sleep_us(1000);
  serve([&](Verdict& verdict) {
    verdict.expect(check(block, block_size, common_seed) < 0, "the server's memory");
    verdict.expect(check(heap, heap_size, heap_seed) < 0, "the server's heap");
    for (int i = 0; i < workers; i++) {
      uint64_t rounds = reports[i].rounds;
      for (int n = 0; n < 3000 && reports[i].rounds < rounds + 2; n++) sleep_us(10000);
      verdict.expect(reports[i].rounds >= rounds + 2, "worker %d stands still", i);
      verdict.expect(!reports[i].wrong, "worker %d: see line %d", i, reports[i].wrong.load());
    }
  });
}
