#include "engine/memory/address_space.h"

#include <catch2/catch.hpp>

using namespace stasis::engine;

TEST_CASE("The roomiest place is in the middle of the widest gap") {
  CHECK(roomiest_place({}, 4096) == ((0x10000 + task_size) / 2 & ~uint64_t{4095}));
  // In any order, overlapping, and with what is the kernel's.
  uint64_t low = 0x400000, high = task_size - 0x10000;
  CHECK(roomiest_place({{high, task_size},
                        {0xffffffffff600000, 0xffffffffff601000},
                        {0x10000, low},
                        {0x10000, 0x20000}},
                       4096) == ((low + high) / 2 & ~uint64_t{4095}));
  CHECK(roomiest_place({{0x10000, task_size}}, 4096) == 0);
  CHECK(roomiest_place({{0x10000, task_size - 0x3000}}, 0x2000) == 0);
}
