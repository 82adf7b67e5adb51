#include "base/text.h"

#include <catch2/catch.hpp>

using namespace stasis;

TEST_CASE("what a person may have meant") {
  std::vector<std::string> known{"/etc/hosts", "/data", "/etc/hostname", "/dev/shm"};
  CHECK(text::nearest("/dat", known) == std::vector<std::string>{"/data"});
  CHECK(text::nearest("/etc/host", known).front() == "/etc/hosts");
  CHECK(text::nearest("x", {}).empty());
  CHECK(text::did_you_mean("/dat", known) == ": did you mean /data?");
  CHECK(text::did_you_mean("nothing like it", known).empty());
}
