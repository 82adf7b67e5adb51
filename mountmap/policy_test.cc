#include "mountmap/policy.h"

#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "mountmap/test_support.h"

using namespace stasis::mountmap;
using Catch::Contains;

namespace {

Policy rules(const std::string& text) { return parse_policy("rules:\n" + text, "policy.yaml"); }

stasis::oci::Config pod_config(const std::string& name) {
  stasis::oci::Config config;
  config.annotations = {{"io.kubernetes.cri.sandbox-name", name}};
  config.masked_paths = {"/proc/keys", "/proc/acpi"};
  config.readonly_paths = {"/proc/sys"};
  return config;
}

MountTable table() {
  return MountTable::parse(
      "90 9 8:1 /c/rootfs / rw - ext4 /dev/sda1 rw\n"
      "91 90 8:2 /vols/a /vol rw - ext4 /dev/sda2 rw\n"
      "92 91 0:77 / /vol/cache rw - tmpfs t rw\n"
      "93 92 0:78 / /vol/cache/deep rw - tmpfs t rw\n"
      "94 90 0:20 / /proc rw - proc proc rw\n"
      "95 94 0:20 /sys /proc/sys ro - proc proc rw\n"
      "96 94 0:5 /null /proc/keys rw - devtmpfs u rw\n"
      "97 90 0:9 /x /shm rw - tmpfs tmpfs rw,size=1k\n"
      "98 90 0:5 /kvm /dev/kvm rw - devtmpfs u rw\n");
}

MountMap apply(const std::string& text) {
  auto container = table();
  auto host = MountTable::parse(
      "1 0 8:1 / / rw - ext4 a rw\n2 1 0:5 / /dev rw - devtmpfs u rw\n"
      "3 1 8:2 /vols /srv rw - ext4 b rw\n4 1 0:9 / /tmp rw - tmpfs t rw\n");
  auto config = pod_config("web-0");
  auto map = make_map({.container = container, .host = host, .config = &config, .resolve = {}});
  // What an unconfigured source would be refused for is not what is asked here.
  apply_policy(map, rules(text), {"c1", &config});
  return map;
}

size_t obstacles_at(const MountMap& map, int mount, std::string_view words = "") {
  size_t count = 0;
  for (const auto& f : map.findings)
    count += f.severity == Severity::obstacle && f.mount == mount &&
             f.what.find(words) != std::string::npos;
  return count;
}

}  // namespace

TEST_CASE("globs") {
  CHECK(glob_matches("/data", "/data"));
  CHECK_FALSE(glob_matches("/data", "/data/x"));
  CHECK(glob_matches("/data/*", "/data/x"));
  CHECK_FALSE(glob_matches("/data/*", "/data/x/y"));
  CHECK_FALSE(glob_matches("/data/*", "/data"));
  CHECK(glob_matches("/data/**", "/data/x/y"));
  CHECK(glob_matches("**/mounts/shm", "/var/lib/docker/mounts/shm"));
  CHECK(glob_matches("/a?c", "/abc"));
  CHECK_FALSE(glob_matches("/a?c", "/a/c"));
  CHECK(glob_matches("**", ""));
  CHECK_FALSE(glob_matches("?", ""));
  CHECK(glob_matches("fuse.*", "fuse.lxcfs"));
}

TEST_CASE("a whole policy") {
  auto policy = parse_policy(R"(
rules:
  - destination: [/data/**, /cache]
    type: tmpfs
    annotation: {io.kubernetes.pod.namespace: "prod-*"}
    action: content
    why: because
  - source: /srv/*
    remap: /mnt{source}
checkpoints: [/var/lib/stasis/checkpoints]
ghost_limit: 2M
size_limit: 4096
)",
                             "p");
  REQUIRE(policy.rules.size() == 2);
  CHECK(policy.rules[0].destinations.size() == 2);
  CHECK(policy.rules[0].action == Action::content);
  CHECK(policy.rules[0].place == "p:3");
  CHECK(policy.rules[0].why == "because");
  CHECK(policy.rules[1].action == Action::remap);
  CHECK(policy.rules[1].path == "/mnt{source}");
  CHECK(policy.ghost_limit == 2U << 20);
  CHECK(policy.size_limit == 4096);
  CHECK(policy.checkpoints == std::vector<std::string>{"/var/lib/stasis/checkpoints"});
  CHECK(parse_policy("", "p").rules.empty());
  CHECK(parse_policy("# nothing\n", "p").rules.empty());
}

TEST_CASE("what is wrong in a policy is told by line and column") {
  auto wrong = [](const std::string& text, const std::string& words) {
    INFO(text);
    CHECK_THROWS_WITH(parse_policy(text, "p"), Contains(words));
  };
  wrong("rules:\n  - {destination: /a, acton: keep}\n", "p:2:23: unknown key \"acton\"");
  wrong("rule: []\n", "p:1:1: unknown key \"rule\"");
  wrong("rules: 5\n", "p:1:8: expected a list of rules");
  wrong("[]\n", "p:1:1: expected keys with values");
  wrong("rules:\n  - {destination: {a: b}, action: keep}\n", "p:2:19: expected a text");
  wrong("rules:\n  - {destination: data, action: keep}\n", "p:2:19: \"data\" matches no path");
  wrong("rules:\n  - destination: /a\n", "p:2:5: a rule has either");
  wrong("rules:\n  - {action: keep, remap: /x}\n", "p:2:5: a rule has either");
  wrong("rules:\n  - {action: keep, action: skip}\n", "p:2:20: \"action\" appears twice");
  wrong("rules:\n  - {action: stay}\n", "p:2:14: unknown action \"stay\"");
  wrong("rules:\n  - {remap: x}\n", "p:2:13: expected an absolute path");
  wrong("rules:\n  - remap: /x/{name}\n", "p:2:12: unknown placeholder \"{name}\"");
  wrong("rules:\n  - remap: /x/{id\n", "p:2:12: a \"{\" without its");
  wrong("rules:\n  - {type: [], action: keep}\n", "p:2:12: is an empty list");
  wrong("checkpoints: var/lib\n", "p:1:14: \"var/lib\" is not an absolute path");
  wrong("checkpoints: [/a/../b]\n", "is not an absolute path without");
  wrong("size_limit: 5X\n", "p:1:13: expected a size");
  wrong("size_limit: -1\n", "p:1:13: expected a size");
  wrong("size_limit: 99999999999T\n", "p:1:13: expected a size");
  wrong("rules: [\n", "p:2:1");
  wrong("\trules: []\n", "p:1:");
}

TEST_CASE("the first rule that matches decides") {
  auto policy = rules(
      "  - {destination: /vol, type: ext4, annotation: {io.kubernetes.cri.sandbox-name: db-*}, "
      "action: refuse}\n"
      "  - {destination: /vol, source: /srv/**, action: content}\n"
      "  - {destination: '**', action: skip}\n");
  auto web = pod_config("web-0"), db = pod_config("db-1");
  auto decided = [&](const MountFacts& mount, const stasis::oci::Config* config) {
    return decide(policy, mount, {"c1", config})->action;
  };
  CHECK(decided({"/vol", "/srv/a", "ext4"}, &db) == Action::refuse);
  CHECK(decided({"/vol", "/srv/a", "ext4"}, &web) == Action::content);
  // Nothing is known of annotations: a rule that asks for one doesn't match.
  CHECK(decided({"/vol", "/srv/a", "ext4"}, nullptr) == Action::content);
  CHECK(decided({"/vol", "/else", "ext4"}, &db) == Action::refuse);
  CHECK(decided({"/vol", "/else", "ext4"}, &web) == Action::skip);
  CHECK(decide(builtin_policy(), {"/data", "/srv/data", "ext4"}, {}) == nullptr);
}

TEST_CASE("actions change rows") {
  auto map = apply(
      "  - {destination: /vol, action: content}\n"
      "  - {destination: /vol/cache, action: skip}\n"
      "  - {destination: /shm, action: recreate}\n");
  CHECK(at(map, "/vol").kind == MountClass::own);
  CHECK(at(map, "/vol").reason == "its data is taken into the image (policy.yaml:2)");
  CHECK(map.content_mounts().count(91) == 1);
  CHECK(map.skipped_mounts() == std::set<int>{92, 93});
  CHECK(at(map, "/vol/cache/deep").reason == "stands on /vol/cache, which is skipped");
  CHECK(map.recreated_mounts() == std::set<int>{97});
  CHECK(map.external_mounts().count(91) == 0);
  // That config.json names no source for it is of no concern any more.
  CHECK(obstacles_at(map, 91) == 0);
  CHECK(obstacles_at(map, 97) == 0);
}

TEST_CASE("remap makes a mount external") {
  auto map =
      apply("  - {destination: [/vol, /vol/cache], remap: '/mnt/{id}/{pod}{destination}'}\n");
  CHECK(at(map, "/vol").remapped == "/mnt/c1/web-0/vol");
  CHECK(at(map, "/vol/cache").kind == MountClass::external);
  CHECK(at(map, "/vol/cache").key == "/vol/cache");
  CHECK(obstacles_at(map, 91) == 0);
}

TEST_CASE("what a rule can't do is an obstacle") {
  auto map = apply(
      "  - {destination: /proc, action: content}\n"
      "  - {destination: /vol, action: recreate}\n"
      "  - {destination: /shm, action: refuse, why: no}\n"
      "  - {destination: /dev/kvm, action: content}\n");
  CHECK(obstacles_at(map, 94, "of type proc") == 1);
  CHECK(obstacles_at(map, 91, "nothing to make anew") == 1);
  CHECK(obstacles_at(map, 97, "is refused: no") == 1);
  CHECK(obstacles_at(map, 98, "a device") == 1);
}

TEST_CASE("no rule makes a container less confined, nor touches its root") {
  auto map = apply("  - {destination: '**', action: skip}\n");
  CHECK(at(map, "/").kind == MountClass::root);
  CHECK(at(map, "/proc/keys").external == ExternalKind::masked);
  CHECK(at(map, "/proc/sys").kind == MountClass::own);
  CHECK(at(map, "/vol").kind == MountClass::skipped);
}

TEST_CASE("placeholders that tenants fill lead nowhere else") {
  auto policy = rules("  - {destination: /vol, remap: '/mnt/{annotation:name}/{pod}'}\n");
  const auto& rule = policy.rules[0];
  stasis::oci::Config config;
  PolicySubject subject{"c1", &config};
  config.annotations = {{"name", "a"}, {"io.kubernetes.pod.name", "p"}};  // CRI-O's
  CHECK(remapped_path(rule, {"/vol", "", ""}, subject) == "/mnt/a/p");
  for (const char* bad : {"..", ".", "a/b", "/etc"}) {
    config.annotations["name"] = bad;
    CHECK_THROWS_WITH(remapped_path(rule, {"/vol", "", ""}, subject), Contains("no name for"));
  }
  config.annotations.erase("name");
  CHECK_THROWS_WITH(remapped_path(rule, {"/vol", "", ""}, subject),
                    Contains("{annotation:name}, which isn't known"));
}

TEST_CASE("the name of a checkpoint may be that of the pod's container") {
  stasis::oci::Config config;
  config.annotations = {{"io.kubernetes.cri.container-name", "web"},
                        {"io.kubernetes.cri.sandbox-name", "shop"}};
  PolicySubject subject{"c1", &config};
  CHECK(checkpoint_name("/var/lib/it", subject) == "/var/lib/it");
  CHECK(checkpoint_name("team/{pod}-{container}.tar", subject) == "team/shop-web.tar");
  CHECK(checkpoint_name("{id}", subject) == "c1");
  CHECK_THROWS_WITH(checkpoint_name("{namespace}", subject), Contains("isn't known"));
  CHECK_THROWS_WITH(checkpoint_name("{nothing}", subject), Contains("isn't known"));
  CHECK_THROWS_WITH(checkpoint_name("a{id", subject), Contains("without its }"));
  config.annotations["io.kubernetes.cri.container-name"] = "..";
  CHECK_THROWS_WITH(checkpoint_name("{container}", subject), Contains("no name for"));
}

TEST_CASE("a policy that others could have written is refused") {
  char directory[] = "/tmp/stasis-policy-XXXXXX";
  std::filesystem::path path = mkdtemp(directory);
  path /= "policy.yaml";
  std::ofstream(path) << "rules: [{destination: /x, action: keep}]\n";
  chmod(path.c_str(), 0644);
  if (geteuid() == 0) {
    auto policy = load_policy(path);
    CHECK(policy.rules.size() == builtin_policy().rules.size() + 1);
    CHECK(policy.rules[0].destinations == std::vector<std::string>{"/x"});
    chmod(path.c_str(), 0664);
    CHECK_THROWS_WITH(load_policy(path), Contains("others than root may write"));
    CHECK(load_policy(path, false).rules.size() == policy.rules.size());
    REQUIRE(chown(path.c_str(), 1, 0) == 0);
    CHECK_THROWS_WITH(load_policy(path), Contains("doesn't belong to root"));
  }
  std::filesystem::remove(path);
  CHECK_THROWS_WITH(load_policy(path), Contains("open the policy"));
  std::filesystem::create_directory(path);
  CHECK_THROWS_WITH(load_policy(path), Contains("it is no file"));
  std::filesystem::remove_all(path.parent_path());
}
