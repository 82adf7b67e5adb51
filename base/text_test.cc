#include "base/text.h"

#include <catch2/catch.hpp>

using namespace stasis;

TEST_CASE("what a person may have meant") {
  std::vector<std::string> known{"/etc/hosts", "/data", "/etc/hostname", "/dev/shm"};
  CHECK(text::nearest("/dat", known, 1) == std::vector<std::string>{"/data"});
  CHECK(text::nearest("/etc/host", known, 2) ==
        std::vector<std::string>{"/etc/hosts", "/etc/hostname"});
  CHECK(text::nearest("x", {}, 3).empty());
}
