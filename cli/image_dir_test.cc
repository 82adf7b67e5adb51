#include "cli/image_dir.h"

#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "cli/lock.h"
#include "cli/progress.h"
#include "kernel/fs.h"

using namespace stasis;
using namespace stasis::cli;
namespace fs = std::filesystem;

namespace {

struct Scratch {
  Scratch() {
    char name[] = "/tmp/stasis-cli-XXXXXX";
    REQUIRE(mkdtemp(name));
    path = name;
  }
  ~Scratch() { fs::remove_all(path); }
  size_t entries() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(path), {}));
  }
  fs::path path;
};

}  // namespace

TEST_CASE("a new image appears whole or not at all", "[cli]") {
  Scratch scratch;
  std::string place = scratch.path / "a" / "c1";
  {
    NewImage image(place);
    image.add_file("inventory.img", "one");
    CHECK_FALSE(fs::exists(place));
  }
  CHECK(fs::is_empty(scratch.path / "a"));

  NewImage image(place + "/");
  image.add_file("inventory.img", "one");
  image.publish();
  CHECK(kernel::read_file(place + "/inventory.img") == "one");
  struct stat info{};
  REQUIRE(stat(place.c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0700);
}

TEST_CASE("an older checkpoint is replaced, anything else is not", "[cli]") {
  Scratch scratch;
  std::string place = scratch.path / "c1";
  for (std::string text : {"one", "two"}) {
    NewImage image(place);
    image.add_file("inventory.img", text);
    image.publish();
    CHECK(kernel::read_file(place + "/inventory.img") == text);
  }
  CHECK(scratch.entries() == 1);

  fs::create_directory(scratch.path / "empty");
  NewImage image(scratch.path / "empty");
  image.add_file("inventory.img", "three");
  image.publish();
  CHECK(scratch.entries() == 2);

  fs::create_directory(scratch.path / "photos");
  std::ofstream(scratch.path / "photos" / "cat.jpg") << "cat";
  CHECK_THROWS_WITH(NewImage(scratch.path / "photos"), Catch::Contains("isn't a checkpoint"));
  CHECK(scratch.entries() == 3);
}

TEST_CASE("what a killed stasis left is cleared away, what a live one writes is not", "[cli]") {
  Scratch scratch;
  fs::create_directory(scratch.path / ".c1.AbCdEf");
  fs::create_directory(scratch.path / ".c1.other");
  NewImage live(scratch.path / "c1");
  NewImage second(scratch.path / "c1");
  CHECK_FALSE(fs::exists(scratch.path / ".c1.AbCdEf"));
  CHECK(scratch.entries() == 3);
}

TEST_CASE("the manifest comes back as it was", "[cli]") {
  Scratch scratch;
  CHECK_THROWS_WITH(read_manifest(scratch.path / "nothing"), Catch::Contains("no such directory"));
  CHECK_THROWS_WITH(read_manifest(scratch.path), Catch::Contains("inventory.img"));
  std::ofstream(scratch.path / "inventory.img");
  CHECK(read_manifest(scratch.path).bundle.empty());

  Manifest manifest{.id = "web",
                    .bundle = "/srv/\"web\"",
                    .runc_root = "/run/runc",
                    .tcp_established = true,
                    .shell_job = true};
  std::ofstream(scratch.path / "stasis.json") << to_json(manifest);
  Manifest read = read_manifest(scratch.path);
  CHECK(read.id == "web");
  CHECK(read.bundle == "/srv/\"web\"");
  CHECK(read.runc_root == "/run/runc");
  CHECK(read.tcp_established);
  CHECK_FALSE(read.file_locks);
  CHECK(read.shell_job);

  std::ofstream(scratch.path / "stasis.json") << "{\"version\": 2}";
  CHECK_THROWS_WITH(read_manifest(scratch.path), Catch::Contains("/version"));
}

TEST_CASE("one at a time on one container", "[cli]") {
  Scratch scratch;
  std::string dir = scratch.path / "run";
  {
    ContainerLock lock("web", dir);
    CHECK_THROWS_WITH(ContainerLock("web", dir), Catch::Contains("another stasis"));
    ContainerLock other("db", dir);
  }
  CHECK(fs::is_empty(dir + "/.locks"));
  ContainerLock again("web", dir);
}

TEST_CASE("bytes for people", "[cli]") {
  CHECK(human_bytes(0) == "0 B");
  CHECK(human_bytes(1023) == "1023 B");
  CHECK(human_bytes(1536) == "1.5 KiB");
  CHECK(human_bytes(3ull << 30) == "3.0 GiB");
}
