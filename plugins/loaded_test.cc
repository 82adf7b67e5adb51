#include "plugins/loaded.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "plugins/test_support.h"

using namespace stasis;
using namespace stasis::plugins;
using Catch::Matchers::Contains;

namespace {

struct PluginDirectory : Directory {
  explicit PluginDirectory(const std::string& plugin) {
    auto to = path / (plugin + ".so");
    std::filesystem::copy_file(std::filesystem::path(STASIS_TEST_PLUGINS) / (plugin + ".so"), to);
    chmod(to.c_str(), 0755);
  }
  std::string file(const std::string& name) const { return path / name; }
};

mountmap::Mount volume(const std::string& type, const std::string& source) {
  mountmap::Mount mount;
  mount.fstype = type;
  mount.source = source;
  mount.mountpoint = "/data";
  mount.sb_options = "user_id=0";
  return mount;
}

std::string refusal(const std::string& plugin) {
  PluginDirectory directory(plugin);
  try {
    load_plugins(directory.path);
  } catch (const Error& error) {
    return error.what();
  }
  return "none";
}

}  // namespace

TEST_CASE("a plugin is loaded and used") {
  PluginDirectory directory("fuse_volume");
  directory.write("README", "no plugin");
  auto plugins = load_plugins(directory.path);
  REQUIRE(plugins.size() == 1);
  const auto& plugin = *plugins.front();
  CHECK(plugin.name() == "fuse-volume");
  CHECK(plugin.claims(volume("fuse.volume", "photos")));
  CHECK_FALSE(plugin.claims(volume("fuse.other", "photos")));
  CHECK(plugin.describe(volume("fuse.volume", "photos")) == "photos\nuser_id=0\n");
  CHECK_THROWS_WITH(plugin.describe(volume("fuse.volume", "../etc")),
                    Contains("is no name of a volume") && Contains("/data"));
  CHECK_THROWS_WITH(plugin.make("stasis-no-such-volume\n\n"), Contains("start its server"));
  CHECK_THROWS_WITH(plugin.make("../../etc\n"), Contains("no proper name"));
  CHECK_THROWS_WITH(plugin.make("no end of line"), Contains("doesn't tell"));
}

TEST_CASE("what is no plugin for this stasis is told by its name") {
  CHECK_THAT(refusal("other_version"), Contains("other_version.so") && Contains("version 7") &&
                                           Contains("this stasis has version 1"));
  CHECK_THAT(refusal("no_plugin"), Contains("no stasis_mount_abi"));
  CHECK_THAT(refusal("no_entry"), Contains("no stasis_mount_entry"));
  CHECK_THAT(refusal("no_calls"), Contains("lacks a name"));
  CHECK_THAT(refusal("no_symbol"), Contains("of_nobody"));
}

TEST_CASE("plugins come only from where nobody but root can put them") {
  PluginDirectory directory("fuse_volume");
  std::string path = directory.path, file = directory.file("fuse_volume.so");
  CHECK_THROWS_AS(load_plugins(path + "/nowhere"), Error);
  CHECK_THROWS_WITH(load_plugins("plugins"), Contains("absolute"));
  chmod(file.c_str(), 0775);
  CHECK_THROWS_WITH(load_plugins(path), Contains("others than root"));
  chmod(file.c_str(), 0755);
  REQUIRE(chown(file.c_str(), 1000, 0) == 0);
  CHECK_THROWS_WITH(load_plugins(path), Contains("doesn't belong to root"));
  REQUIRE(chown(file.c_str(), 0, 0) == 0);
  chmod(path.c_str(), 0777);
  CHECK_THROWS_WITH(load_plugins(path), Contains("others than root"));
  chmod(path.c_str(), 01777);  // in the directory itself they could add files
  CHECK_THROWS_WITH(load_plugins(path), Contains("others than root"));
  chmod(path.c_str(), 0755);
  std::filesystem::create_directory(path + "/inner");
  std::filesystem::create_symlink(path, path + "/inner/link");
  CHECK_THROWS_AS(load_plugins(path + "/inner/link"), Error);
  CHECK(load_plugins(path + "/inner").empty());
  std::filesystem::create_symlink(file, path + "/link.so");
  CHECK_THROWS_AS(load_plugins(path), Error);
  std::filesystem::remove(path + "/link.so");
  REQUIRE(chown((path + "/inner").c_str(), 1000, 0) == 0);
  CHECK_THROWS_WITH(load_plugins(path + "/inner"), Contains("doesn't belong to root"));
  std::filesystem::create_directory(path + "/inner/deep");
  CHECK_THROWS_WITH(load_plugins(path + "/inner/deep"), Contains("doesn't belong to root"));
}
