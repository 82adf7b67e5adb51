#include "engine/memory/headroom.h"

#include <catch2/catch.hpp>

using stasis::engine::memory_left;

TEST_CASE("what a cgroup leaves of its memory", "[headroom]") {
  CHECK(memory_left("max\n", "4096\n", "") == UINT64_MAX);
  CHECK(memory_left("", "", "") == UINT64_MAX);  // the root directory has no such files
  CHECK(memory_left("1048576\n", "4096\n", "anon 4096\nfile 0\n") == 1044480);
  CHECK(memory_left("4096\n", "8192\n", "") == 0);  // lowered since
  // What only caches files makes room.
  CHECK(memory_left("8192\n", "8192\n", "anon 4096\ninactive_file 4096\nactive_file 0\n") == 4096);
  CHECK(memory_left("8192\n", "8192\n", "inactive_file 0\ntotal_inactive_file 8192\n") == 8192);
  CHECK(memory_left("8192\n", "4096\n", "inactive_file 8192\n") == 8192);  // counted at other times
}
