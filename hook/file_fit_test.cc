#include "hook/file_fit.h"

#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

using namespace stasis;
namespace fs = std::filesystem;
using Catch::Contains;

namespace {

struct Root {
  fs::path path;
  Root() {
    char name[] = "/tmp/stasis-root-XXXXXX";
    path = mkdtemp(name);
    fs::create_directories(path / "usr/bin");
    fs::create_symlink("usr/bin", path / "bin");
    std::ofstream(path / "usr/bin/web") << "program";
    fs::permissions(path / "usr/bin/web", fs::perms{0755});
  }
  ~Root() { fs::remove_all(path); }
  oci::Config config() const {
    oci::Config config;
    config.root_path = path;
    return config;
  }
};

image::Checkpoint holding(const std::string& name, uint32_t mode, uint64_t size) {
  image::Checkpoint checkpoint;
  checkpoint.tasks.emplace_back();
  image::FileEntry& file = checkpoint.files[1];
  file.set_type(image::REG);
  file.mutable_reg()->set_id(1);
  file.mutable_reg()->set_flags(0);
  file.mutable_reg()->set_name(name);
  file.mutable_reg()->set_mode(mode);
  file.mutable_reg()->set_size(size);
  return checkpoint;
}

}  // namespace

TEST_CASE("files of the root file system are what they were") {
  Root root;
  CHECK_NOTHROW(hook::check_root_files(holding("/usr/bin/web", S_IFREG | 0755, 7), root.config()));
  CHECK_THROWS_WITH(
      hook::check_root_files(holding("/usr/bin/web", S_IFREG | 0755, 8), root.config()),
      Contains("/usr/bin/web") && Contains("its size is 7, it was 8"));
  CHECK_THROWS_WITH(
      hook::check_root_files(holding("/usr/bin/web", S_IFREG | 0700, 7), root.config()),
      Contains("its mode is"));
  CHECK_THROWS_WITH(
      hook::check_root_files(holding("/usr/bin/gone", S_IFREG | 0755, 7), root.config()),
      Contains("/usr/bin/gone") && Contains("No such file"));
  CHECK_NOTHROW(hook::check_root_files(holding("/usr", S_IFDIR | 0755, 0), root.config()));
}

TEST_CASE("files that are to be seen at the start only are passed over") {
  Root root;
  auto on_mount = holding("/data/log", S_IFREG | 0644, 1);
  CHECK_THROWS(hook::check_root_files(on_mount, root.config()));
  auto config = root.config();
  config.mounts.push_back({"/data", "bind", "/srv", {"bind"}});
  CHECK_NOTHROW(hook::check_root_files(on_mount, config));
  // A destination leads where the root's links lead.
  config.mounts = {{"/bin", "bind", "/srv", {"bind"}}};
  CHECK_NOTHROW(hook::check_root_files(holding("/usr/bin/other", S_IFREG | 0755, 7), config));
  auto checkpoint = holding("/data/log", S_IFREG | 0644, 1);
  image::MntEntry& mount = checkpoint.mounts[0].emplace_back();
  mount.set_mountpoint("/data");
  CHECK_NOTHROW(hook::check_root_files(checkpoint, root.config()));
  checkpoint = holding("/data/log", S_IFREG | 0644, 1);
  checkpoint.remaps.emplace_back().set_orig_id(1);
  CHECK_NOTHROW(hook::check_root_files(checkpoint, root.config()));
  checkpoint = holding("/data/log", S_IFREG | 0644, 1);
  checkpoint.files[1].mutable_reg()->set_ext(true);
  CHECK_NOTHROW(hook::check_root_files(checkpoint, root.config()));
  config.root_path = "/nowhere";
  CHECK_NOTHROW(hook::check_root_files(on_mount, config));
}
