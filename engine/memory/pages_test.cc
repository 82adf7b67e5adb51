#include "engine/memory/pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>

#include "kernel/fs.h"

using namespace stasis;
using namespace stasis::engine;

namespace {

uint64_t address(void* p) { return reinterpret_cast<uint64_t>(p); }

}  // namespace

TEST_CASE("ranges of pages and areas intersect") {
  CHECK(intersect({{0x1000, 0x5000}}, {{0x2000, 0x3000}, {0x4000, 0x9000}}) ==
        std::vector<PageRange>{{0x2000, 0x3000}, {0x4000, 0x5000}});
  CHECK(intersect({{0x1000, 0x2000}, {0x6000, 0x7000}}, {{0x0, 0x8000}}) ==
        std::vector<PageRange>{{0x1000, 0x2000}, {0x6000, 0x7000}});
  CHECK(intersect({}, {{0x0, 0x8000}}).empty());
  CHECK(intersect({{0x1000, 0x2000}}, {}).empty());
}

TEST_CASE("a task's own pages: written ones, by both ways of asking") {
  constexpr size_t pages = 64;
  auto area = static_cast<char*>(
      mmap(nullptr, pages * page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  madvise(area, pages * page_size, MADV_NOHUGEPAGE);
  for (size_t page : {1, 2, 3, 10, 63}) area[page * page_size] = 1;
  volatile char zero = area[20 * page_size];  // the shared zero page
  static_cast<void>(zero);
  UniqueFd pagemap = kernel::open("/proc/self/pagemap", O_RDONLY);
  uint64_t start = address(area), end = start + pages * page_size;
  std::vector<PageRange> wanted{{start + 1 * page_size, start + 4 * page_size},
                                {start + 10 * page_size, start + 11 * page_size},
                                {start + 63 * page_size, end}};
  CHECK(own_pages(pagemap.get(), {{start, end}}) == wanted);
  // Without PAGEMAP_SCAN the zero page cannot be told apart; it is dumped.
  auto words = own_pages(pagemap.get(), {{start, end}}, false);
  CHECK(intersect(words, wanted) == wanted);
  CHECK(own_pages(pagemap.get(), {}, false).empty());
  // Terabytes between two areas cost nothing either way.
  for (bool use_scan : {true, false})
    CHECK(own_pages(pagemap.get(), {{page_size, 2 * page_size}, {start, start + 2 * page_size}},
                    use_scan) ==
          std::vector<PageRange>{{start + page_size, start + 2 * page_size}});
  munmap(area, pages * page_size);
}

TEST_CASE("memory into a page image and back, in pieces") {
  constexpr size_t size = 20 << 20;
  auto area = static_cast<unsigned char*>(
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  for (size_t i = 0; i < size; ++i) area[i] = static_cast<unsigned char>(i * 2654435761u >> 13);
  std::vector<unsigned char> before(area, area + size);
  UniqueFd image(memfd_create("pages", MFD_CLOEXEC));
  uint64_t told = 0;
  PageCopier save(2);
  save.add({PageCopier::Through::process_vm, getpid(), -1, address(area), image.get(), 4096, size});
  save.save([&](uint64_t done) { told = done; });
  CHECK(told == size);
  memset(area, 0, size);
  PageCopier fill(2);
  fill.add({PageCopier::Through::process_vm, getpid(), -1, address(area), image.get(), 4096, size});
  fill.fill([](uint64_t) {});
  CHECK(memcmp(area, before.data(), size) == 0);

  PageCopier missing(2);
  missing.add({PageCopier::Through::process_vm, getpid(), -1, 0x1000, image.get(), 0, 4096});
  CHECK_THROWS_AS(missing.save([](uint64_t) {}), Error);
  munmap(area, size);
}
