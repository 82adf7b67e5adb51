#include "hook/install.h"

#include <re2/re2.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "kernel/fs.h"

namespace stasis::hook {

namespace {

using nlohmann::json;
namespace fs = std::filesystem;

// As go's regexp.MatchString, whose syntax is RE2's: anywhere in the text.
bool matches(const std::string& pattern, const std::string& text) {
  re2::RE2 regex(pattern);
  REQUIRE(regex.ok());
  return re2::RE2::PartialMatch(text, regex);
}

}  // namespace

// The rules by which podman, CRI-O and the NRI plugin hook-injector read such files;
// they share the code: pkg/hooks of containers/common.
TEST_CASE("The files in hooks.d are such as its readers take") {
  const std::set<std::string> stages = {"createContainer", "createRuntime", "prestart",
                                        "poststart",       "poststop",      "startContainer"};
  std::set<std::string> called;
  for (const HookFile& file : hook_files("/usr/sbin/stasis")) {
    CAPTURE(file.name, file.text);
    CHECK(file.name.ends_with(".json"));  // others are passed over
    json hook = json::parse(file.text);
    CHECK(hook.at("version") == "1.0.0");
    CHECK(hook.at("hook").at("path") == "/usr/sbin/stasis");
    CHECK(hook.at("hook").at("args").at(0).is_string());
    REQUIRE(hook.at("stages").is_array());
    for (const json& stage : hook.at("stages")) {
      CHECK(stages.contains(stage));
      CHECK(hook.at("hook").at("args").at(2) == stage);
      called.insert(stage);
    }
    // One condition, and no other kind beside it, as all would have to hold.
    CHECK(hook.at("when").size() == 1);
    const json& annotations = hook.at("when").at("annotations");
    REQUIRE(annotations.size() == 1);
    std::string key = annotations.items().begin().key();
    CHECK(matches(key, "dev.stasis.restore"));
    CHECK(matches(key, "dev.stasis.snapshot"));
    for (const char* other : {"dev.stasis.restored", "x.dev.stasis.restore", "dev-stasis-restore",
                              "dev.stasis.snapshot-when", "dev.stasis.clone-signal"})
      CHECK_FALSE(matches(key, other));
    std::string value = annotations.begin().value();
    CHECK(matches(value, "/var/lib/stasis/checkpoints/web"));
    CHECK_FALSE(matches(value, ""));
  }
  CHECK(called == std::set<std::string>{"createRuntime", "poststart", "poststop"});
}

TEST_CASE("hooks.d files are whole and readable for all, whatever the umask") {
  char name[] = "/tmp/stasis-hooks-XXXXXX";
  fs::path path = mkdtemp(name);
  mode_t before = umask(077);
  install(path / "deep/hooks.d", "/usr/sbin/stasis");
  umask(before);
  for (const HookFile& file : hook_files("/usr/sbin/stasis")) {
    CHECK(kernel::read_file(path / "deep/hooks.d" / file.name) == file.text);
    CHECK((fs::status(path / "deep/hooks.d" / file.name).permissions() & fs::perms::all) ==
          fs::perms(0644));
  }
  // What an unfinished one would leave isn't taken for a hook: its name ends otherwise.
  CHECK(std::distance(fs::directory_iterator(path / "deep/hooks.d"), {}) == 3);
  CHECK(uninstall(path / "deep/hooks.d").size() == 3);
  CHECK(fs::is_empty(path / "deep/hooks.d"));
  fs::remove_all(path);
}

}  // namespace stasis::hook
