#include "kernel/directories.h"

#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>

using namespace stasis;
using namespace stasis::kernel;

namespace {

struct Place {
  Place() { REQUIRE(mkdtemp(path.data())); }
  ~Place() { std::filesystem::remove_all(path); }
  std::string path = "/tmp/stasis-directories.XXXXXX";
};

}  // namespace

TEST_CASE("directories are made as far as they are missing, and listed from the start") {
  Place place;
  make_directories(place.path + "/a/b/", 0700);
  make_directories(place.path + "/a/c", 0700);
  CHECK(exists(place.path + "/a/b"));
  CHECK_FALSE(exists(place.path + "/a/d"));
  UniqueFd fd = open(place.path + "/a", O_RDONLY | O_DIRECTORY);
  for (int turn = 0; turn < 2; ++turn) {
    std::vector<std::string> names = entries(fd.get(), "a");
    std::sort(names.begin(), names.end());
    CHECK(names == std::vector<std::string>{"b", "c"});
  }
  UniqueFd file = open(place.path + "/file", O_CREAT | O_WRONLY, 0600);
  CHECK_THROWS_AS(make_directories(place.path + "/file/below", 0700), Error);
}

TEST_CASE("only what is root's, and root's alone to write, passes") {
  struct statx stat{};
  auto passes = [&](uint32_t owner, unsigned mode, bool shared) {
    stat.stx_uid = owner;
    stat.stx_mode = static_cast<uint16_t>(mode);
    try {
      check_roots_own(Error("use", "it"), "it", stat, shared);
      return true;
    } catch (const Error& error) {
      CHECK_FALSE(error.cause().empty());
      return false;
    }
  };
  CHECK(passes(0, S_IFREG | 0644, false));
  CHECK_FALSE(passes(1, S_IFREG | 0644, false));
  CHECK_FALSE(passes(0, S_IFREG | 0664, false));
  CHECK_FALSE(passes(0, S_IFREG | 0646, false));
  CHECK_FALSE(passes(0, S_IFDIR | 01777, false));
  CHECK(passes(0, S_IFDIR | 01777, true));
  CHECK_FALSE(passes(0, S_IFREG | 01666, true));
}
