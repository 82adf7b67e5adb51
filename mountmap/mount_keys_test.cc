#include "mountmap/mount_keys.h"

#include <catch2/catch.hpp>

using namespace stasis::mountmap;

namespace {

const char* const host_text =
    "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:5 / /dev rw - devtmpfs udev rw\n"
    "3 1 8:2 /vols /srv rw - ext4 /dev/sda2 rw\n4 1 0:9 / /shared rw shared:7 - tmpfs t rw\n"
    "5 1 0:10 / /mnt rw - tmpfs old rw\n6 5 0:11 / /mnt rw - tmpfs new rw\n"
    "7 1 8:1 /elsewhere /again rw - ext4 /dev/sda1 rw\n";

std::string mount(int id, int parent, const std::string& rest) {
  return std::to_string(id) + " " + std::to_string(parent) + " " + rest + "\n";
}
const std::string root = mount(90, 9, "8:1 /c / rw - ext4 a rw");

struct Result : KeyedMounts {
  bool says(Severity severity, std::string_view words) const {
    for (const auto& finding : findings)
      if (finding.severity == severity &&
          (finding.what + finding.remedy).find(words) != std::string::npos)
        return true;
    return false;
  }
};

Result keyed(const std::string& mounts, const KeyRequest& request, bool source_exists = true) {
  auto container = MountTable::parse(root + mounts);
  auto host = MountTable::parse(host_text);
  return {apply_keys({.container = container,
                      .host = host,
                      .request = request,
                      .resolve =
                          [](const std::string& path) {
                            return path.starts_with("/var/run") ? path.substr(4) : std::string();
                          },
                      .look = [&](const std::string&) -> std::optional<FileIdentity> {
                        if (!source_exists) return std::nullopt;
                        return FileIdentity{.inode = 5};
                      }})};
}

using Ids = std::map<int, std::string>;

}  // namespace

TEST_CASE("a key means one mount of a stack", "[keys]") {
  std::string stack = mount(91, 90, "0:77 / /vol rw - tmpfs t rw") +
                      mount(92, 91, "8:2 /vols/v /vol rw - ext4 b rw") +
                      mount(93, 92, "0:78 / /vol rw - tmpfs t rw");
  CHECK(keyed(stack, {.keys = {{"/vol/", "v", ":"}}}).external == Ids{{92, "v"}});
  CHECK(keyed(stack, {.keys = {{"//vol/./", "v", ":"}}}).external == Ids{{92, "v"}});
  auto again = keyed(stack + mount(94, 93, "8:2 /vols/w /vol rw - ext4 b rw"),
                     {.keys = {{"/vol", "v", ":"}, {"/vol", "w", ":"}}});
  CHECK(again.external == Ids{{92, "v"}, {94, "w"}});
  CHECK(again.sources.at(94).path == "/srv/w");
  // What the container mounted there itself comes from no host.
  auto own = keyed(mount(91, 90, "0:77 / /vol rw - tmpfs t rw"), {.keys = {{"/vol", "v", ":"}}});
  CHECK(own.external.empty());
  REQUIRE(own.unused.size() == 1);
  CHECK(own.unused[0].why.find("container's own") != std::string::npos);
}

TEST_CASE("a key that means nothing has neighbours", "[keys]") {
  auto result = keyed(mount(91, 90, "8:2 /vols/v /volume rw - ext4 b rw"),
                      {.keys = {{"/volum", "v", ":"}, {"/", "r", ":"}}, .skip = {"/x"}});
  CHECK(result.external.empty());
  REQUIRE(result.unused.size() == 3);
  CHECK(result.unused[1].why == "no mount stands there: did you mean /volume?");
}

TEST_CASE("paths with colons, brackets and symbolic links", "[keys]") {
  std::string mounts = mount(91, 90, "8:2 /vols/a /a:b rw - ext4 b rw") +
                       mount(92, 90, "8:2 /vols/c /c]:d rw - ext4 b rw") +
                       mount(93, 90, "8:2 /vols/e /run/e\\040f rw - ext4 b rw");
  auto result = keyed(mounts, {.keys = {{"/a", "b:name:x", ":"},
                                        {"/c", "d]:other", "]:"},
                                        {"/var/run/e f", "third", ":"}}});
  CHECK(result.external == Ids{{91, "name:x"}, {92, "other"}, {93, "third"}});
}

TEST_CASE("one name for two mounts is refused", "[keys]") {
  auto result = keyed(mount(91, 90, "8:2 /vols/a /a rw - ext4 b rw") +
                          mount(92, 90, "8:2 /vols/b /b rw - ext4 b rw"),
                      {.keys = {{"/a", "x", ":"}, {"/b", "x", ":"}}});
  CHECK(result.says(Severity::obstacle, "same name"));
}

TEST_CASE("the host's mounts are found by what they are", "[keys]") {
  std::string mounts = mount(91, 90, "8:2 /vols/a /a rw - ext4 b rw") +
                       mount(92, 90, "0:77 / /own rw - tmpfs t rw") +
                       mount(93, 90, "8:1 /c/inner /inner rw - ext4 a rw") +
                       mount(94, 90, "8:1 /elsewhere/f /f rw - ext4 a rw");
  auto result = keyed(mounts, {.automatic = true});
  CHECK(result.automatic == std::set<int>{91, 94});
  CHECK(result.sources.at(91).path == "/srv/a");
  CHECK(result.sources.at(94).path == "/elsewhere/f");
  CHECK(result.findings.empty());
  CHECK(keyed(mounts, {.keys = {{"/a", "v", ":"}}, .automatic = true}).external.at(91) == "v");
}

TEST_CASE("a covered source is known by its superblock alone", "[keys]") {
  auto result = keyed(mount(91, 90, "0:10 / /a rw - tmpfs old rw"), {.automatic = true});
  CHECK(result.sources.at(91).path == "/mnt");
  CHECK_FALSE(result.sources.at(91).file.known());
  CHECK(result.says(Severity::warning, "the host's /mnt, where now another mount"));
}

TEST_CASE("sharing with the host wants to be allowed", "[keys]") {
  std::string peer = mount(91, 90, "0:9 / /a rw shared:7 - tmpfs t rw");
  std::string slave = mount(91, 90, "0:9 / /a rw master:7 - tmpfs t rw");
  std::string inner = mount(91, 90, "0:9 / /a rw shared:99 - tmpfs t rw");
  CHECK(keyed(peer, {.automatic = true}).says(Severity::obstacle, "mnt[]:s,"));
  CHECK(keyed(peer, {.automatic = true, .masters = true}).says(Severity::obstacle, "mnt[]:sm,"));
  CHECK(keyed(peer, {.automatic = true, .sharing = true}).automatic.contains(91));
  CHECK(keyed(slave, {.automatic = true}).says(Severity::obstacle, "mnt[]:m,"));
  CHECK(keyed(slave, {.automatic = true, .masters = true}).automatic.contains(91));
  CHECK(keyed(inner, {.automatic = true}).automatic.contains(91));
  // Not asked for: CRIU's copy, but said.
  CHECK(keyed(peer, {}).says(Severity::warning, "as a copy"));
}

TEST_CASE("sources that were replaced or deleted", "[keys]") {
  std::string gone = mount(91, 90, "8:2 /vols/f//deleted /f rw - ext4 b rw");
  for (bool automatic : {true, false}) {
    KeyRequest request{.automatic = automatic};
    if (!automatic) request.keys = {{"/f", "f", ":"}};
    CHECK(keyed(gone, request).says(Severity::warning, "replaced"));
    CHECK(keyed(gone, request).external.contains(91));
    CHECK(keyed(gone, request, false).says(Severity::obstacle, "/srv/f, which was deleted"));
  }
}

TEST_CASE("mounts are skipped with all that stands on them", "[keys]") {
  std::string mounts = mount(91, 90, "8:2 /vols/a /a rw - ext4 b rw") +
                       mount(92, 91, "0:77 / /a/b rw - tmpfs t rw") +
                       mount(93, 92, "0:78 / /a/b/c rw - tmpfs t rw") +
                       mount(94, 90, "0:79 / /ab rw - tmpfs t rw");
  auto result = keyed(mounts, {.skip = {"/a/"}});
  CHECK(result.skipped == std::set<int>{91, 92, 93});
  CHECK(result.unused.empty());
}

TEST_CASE("a device by its number", "[keys]") {
  std::string mounts = mount(91, 90, "7:3 / /disk rw - ext4 /dev/loop3 rw") +
                       mount(92, 90, "7:3 /sub /part rw - ext4 /dev/loop3 rw");
  CHECK(keyed(mounts, {.devices = {{7, 3, "loop"}}}).devices == Ids{{91, "loop"}});
  auto wrong = keyed(mounts, {.devices = {{7, 4, "loop"}}});
  REQUIRE(wrong.unused.size() == 1);
  CHECK(wrong.unused[0].why.find("7/3 at /disk") != std::string::npos);
}
