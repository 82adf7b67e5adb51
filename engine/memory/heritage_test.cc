#include "engine/memory/heritage.h"

#include <sys/mman.h>

#include <catch2/catch.hpp>

#include "engine/image/format.h"

namespace stasis::engine {
namespace {

constexpr uint64_t page = 4096;

image::VmaEntry area(uint64_t start, uint64_t end, uint32_t prot = PROT_READ | PROT_WRITE) {
  image::VmaEntry vma;
  vma.set_start(start);
  vma.set_end(end);
  vma.set_prot(prot);
  vma.set_flags(MAP_PRIVATE | MAP_ANONYMOUS);
  vma.set_status(image::vma_regular | image::vma_anon_private);
  return vma;
}

image::TaskImage task(std::initializer_list<image::VmaEntry> areas,
                      std::initializer_list<PageRange> pages) {
  image::TaskImage task;
  for (const image::VmaEntry& vma : areas) *task.mm.add_vmas() = vma;
  for (const PageRange& range : pages) {
    image::PagemapEntry entry;
    entry.set_vaddr(range.start);
    entry.set_flags(image::page_present);
    image::set_page_count(entry, range.pages());
    task.pagemap.push_back(entry);
  }
  return task;
}

Heritage take(const image::TaskImage& from, const image::TaskImage& to) {
  SyscallBatch batch;
  return take_heritage(from, to, {0x10000000, 0x11000000}, {}, batch);
}

constexpr uint64_t base = 0x400000;

}  // namespace

TEST_CASE("A forked task keeps what it has in common with its parent") {
  auto parent = task({area(base, base + 8 * page)}, {{base, base + 4 * page}});
  Heritage same = take(parent, parent);
  CHECK(same.kept == std::map<size_t, uint64_t>{{0, base + 8 * page}});
  CHECK(same.pages == std::vector<PageRange>{{base, base + 4 * page}});

  // A page given back by the child, another by the parent.
  auto child = task({area(base, base + 8 * page)},
                    {{base, base + page}, {base + 2 * page, base + 6 * page}});
  CHECK(take(parent, child).pages ==
        std::vector<PageRange>{{base, base + page}, {base + 2 * page, base + 4 * page}});
}

TEST_CASE("A heap that has grown is kept as far as it goes") {
  auto parent = task({area(base, base + 4 * page)}, {{base, base + 4 * page}});
  auto child = task({area(base, base + 6 * page)}, {{base, base + 6 * page}});
  Heritage heritage = take(parent, child);
  CHECK(heritage.kept == std::map<size_t, uint64_t>{{0, base + 4 * page}});
  CHECK(heritage.pages == std::vector<PageRange>{{base, base + 4 * page}});
}

TEST_CASE("A part of a mapping is kept, with a hole where the child unmapped it") {
  auto parent = task({area(base, base + 8 * page)}, {{base, base + 8 * page}});
  auto child = task({area(base, base + 3 * page), area(base + 4 * page, base + 8 * page)},
                    {{base, base + 3 * page}, {base + 4 * page, base + 8 * page}});
  Heritage heritage = take(parent, child);
  CHECK(heritage.kept == std::map<size_t, uint64_t>{{0, base + 3 * page}, {1, base + 8 * page}});
  CHECK(heritage.pages ==
        std::vector<PageRange>{{base, base + 3 * page}, {base + 4 * page, base + 8 * page}});
}

TEST_CASE("What differs in kind, protection or place isn't kept") {
  auto parent = task({area(base, base + 4 * page)}, {{base, base + 4 * page}});
  CHECK(take(parent, task({area(base, base + 4 * page, PROT_READ)}, {})).kept.empty());
  CHECK(take(parent, task({area(base - page, base + 4 * page)}, {})).kept.empty());
  CHECK(take(parent, task({area(base + 4 * page, base + 5 * page)}, {})).kept.empty());
  image::VmaEntry shared = area(base, base + 4 * page);
  shared.set_status(image::vma_regular | image::vma_anon_shared);
  CHECK(take(task({shared}, {}), task({shared}, {})).kept.empty());
}

}  // namespace stasis::engine
