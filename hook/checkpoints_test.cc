#include "hook/checkpoints.h"

#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "base/error.h"

using namespace stasis;
namespace fs = std::filesystem;

namespace {

struct Roots {
  fs::path path;
  mountmap::Policy policy;
  Roots() {
    char name[] = "/tmp/stasis-roots-XXXXXX";
    path = mkdtemp(name);
    for (const char* dir : {"a/web", "a/deep/web", "b/db", "c/free"}) {
      fs::create_directories(path / dir);
      std::ofstream(path / dir / "inventory.img") << "x";
    }
    policy.checkpoints = {path / "a", path / "b"};
  }
  ~Roots() { fs::remove_all(path); }

  // The error, or nothing.
  std::string open(const std::string& name) const {
    try {
      UniqueFd fd = hook::open_checkpoint(name, policy);
      return faccessat(fd.get(), "inventory.img", F_OK, 0) == 0 ? "" : "another directory";
    } catch (const Error& error) {
      return error.what();
    }
  }
  bool refuses(const std::string& name, const std::string& cause) const {
    std::string said = open(name);
    CAPTURE(said);
    return said.find(cause) != std::string::npos;
  }
};

}  // namespace

TEST_CASE("a checkpoint is found below the policy's roots, and nowhere else") {
  Roots roots;
  CHECK(roots.open("web") == "");
  CHECK(roots.open("db") == "");
  CHECK(roots.open("deep/web") == "");
  CHECK(roots.open(roots.path / "b/db") == "");
  CHECK(roots.refuses("free", "there is none of that name"));
  CHECK(roots.refuses(roots.path / "c/free", "below none of the directories"));
  CHECK(roots.refuses("../c/free", "cross-device"));
  CHECK(roots.refuses(roots.path / "a/../c/free", "isn't plain"));
  CHECK(roots.refuses("", "empty"));
  roots.policy.any_checkpoint = true;
  CHECK(roots.open(roots.path / "c/free") == "");
}

TEST_CASE("a checkpoint that others could have made or changed is refused") {
  if (geteuid() != 0) return;
  Roots roots;
  fs::create_symlink(roots.path / "c/free", roots.path / "a/link");
  CHECK(roots.refuses("link", "symbolic links"));
  chmod((roots.path / "a/web").c_str(), 0775);
  CHECK(roots.refuses("web", "others than root may write to"));
  chmod((roots.path / "a/deep").c_str(), 0777);
  CHECK(roots.refuses("deep/web", "others than root may write to deep"));
  REQUIRE(chown((roots.path / "b/db/inventory.img").c_str(), 1, 1) == 0);
  CHECK(roots.refuses("db", "inventory.img doesn't belong to root"));
  REQUIRE(chown((roots.path / "b").c_str(), 1, 1) == 0);
  CHECK(roots.refuses("db", "doesn't belong to root"));
}
