#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>

#include "base/error.h"
#include "kernel/proc_stat.h"
#include "oci/capability.h"
#include "oci/config.h"
#include "oci/state.h"
#include "oci/text_file.h"

using namespace stasis::oci;

namespace {

// What reading `text` says it can't use.
std::string complaint(const std::string& text) {
  try {
    parse_config(text, "/srv/bundle");
  } catch (const stasis::Error& error) {
    return error.what();
  }
  return {};
}

std::string state_complaint(const std::string& text) {
  try {
    parse_state(text);
  } catch (const stasis::Error& error) {
    return error.what();
  }
  return {};
}

}  // namespace

TEST_CASE("the fields of a real config.json") {
  auto config =
      parse_config(read_text_file(STASIS_FIXTURES "/mounts/runc-config.json"), "/srv/bundle");
  CHECK(config.root_path == "/srv/bundle/rootfs");
  CHECK_FALSE(config.root_readonly);
  CHECK_FALSE(config.terminal);
  CHECK(config.hostname == "runc");
  REQUIRE(config.mounts.size() == 12);
  CHECK(config.mounts[0].type == "proc");
  CHECK_FALSE(config.mounts[0].bind());
  CHECK(config.mounts[7].bind());
  CHECK(config.mounts[7].recursive());
  CHECK(config.mounts[7].source == "/srv/source/dir");
  CHECK(config.has_namespace("mount"));
  CHECK_FALSE(config.has_namespace("cgroup"));
  CHECK(config.masked_paths.size() == 10);
  CHECK(config.readonly_paths.size() == 5);
}

TEST_CASE("the capabilities of a process") {
  auto config = parse_config(
      R"({"process":{"capabilities":{
    "bounding":["CAP_KILL","CAP_CHECKPOINT_RESTORE","CAP_OF_TOMORROW"],"permitted":["CAP_CHOWN"]}}})",
      "/srv/bundle");
  CHECK(config.capabilities == (uint64_t{1} << 5 | uint64_t{1} << 40));
  CHECK(capability_name(40) == "CAP_CHECKPOINT_RESTORE");
  CHECK(capability_name(50) == "capability 50");
  CHECK(parse_config("{}", "/srv/bundle").capabilities == 0);
}

TEST_CASE("paths are made absolute; the bind option decides, not the type") {
  auto config = parse_config(R"({"root":{"path":"r/../fs"},"mounts":[
    {"destination":"data//x/./y/","type":"none","source":"vol","options":["ro","bind"]},
    {"destination":"/a/../b","type":"bind","source":"/x/../y"}],
    "linux":{"devices":[{"path":"/dev/fuse","type":"c"}],
             "uidMappings":[{"containerID":0,"hostID":100000,"size":65536}]},
    "annotations":{"a":"b"},"of a later version":{"x":[1]}})",
                             "/srv/bundle");
  CHECK(config.root_path == "/srv/bundle/fs");
  CHECK(config.mounts[0].destination == "/data/x/y");
  CHECK(config.mounts[0].source == "/srv/bundle/vol");
  CHECK(config.mounts[0].bind());
  CHECK_FALSE(config.mounts[0].recursive());
  // Not cleaned: /x may be a symbolic link.
  CHECK(config.mounts[1].source == "/x/../y");
  CHECK(config.mounts[1].destination == "/b");
  CHECK(config.devices[0].path == "/dev/fuse");
  CHECK(config.uid_mappings[0].host == 100000);
  CHECK(config.annotations.at("a") == "b");
}

TEST_CASE("errors name the file and the JSON path") {
  CHECK(complaint(R"({"mounts":[{"destination":"/a"},{"destination":"/b","source":3}]})") ==
        "cannot use config.json: /mounts/1/source: expected a string");
  CHECK(complaint(R"({"mounts":[{}]})") ==
        "cannot use config.json: /mounts/0: \"destination\" is missing");
  CHECK(complaint(R"({"mounts":[{"destination":"/a","options":["bind"]}]})") ==
        "cannot use config.json: /mounts/0: a bind mount needs a \"source\"");
  CHECK(complaint(R"({"mounts":{}})") == "cannot use config.json: /mounts: expected an array");
  CHECK(complaint(R"({"root":[]})") == "cannot use config.json: /root: expected an object");
  CHECK(complaint(R"({"root":{"path":"a","readonly":1}})") ==
        "cannot use config.json: /root/readonly: expected true or false");
  CHECK(complaint(R"({"annotations":{"a/b~c":7}})") ==
        "cannot use config.json: /annotations/a~1b~0c: expected a string");
  CHECK(complaint("{\"root\":{\"path\":\"a\\u0000b\"}}") ==
        "cannot use config.json: /root/path: contains a NUL character");
  CHECK(complaint(R"({"linux":{"uidMappings":[{"hostID":4294967296}]}})") ==
        "cannot use config.json: /linux/uidMappings/0/hostID: larger than 32 bits");
  CHECK(complaint("[]") == "cannot use config.json: /: expected an object");
  CHECK(complaint("{\"root\":") == "cannot read config.json: not valid JSON (near byte 9)");
  CHECK(complaint("").find("not valid JSON") != std::string::npos);
  CHECK(complaint("[1e999]") == "cannot read config.json: it holds a number that is too large");
}

TEST_CASE("the state that a hook reads") {
  auto state = parse_state(
      R"({"ociVersion":"1.0.2-dev","id":"web","status":"creating","pid":8846,"bundle":"/srv/b"})");
  CHECK(state.id == "web");
  CHECK(state.status == "creating");
  CHECK(state.pid == 8846);
  CHECK(state.bundle == "/srv/b");
  CHECK(parse_state(R"({"id":"a","status":"stopped","bundle":"/b"})").pid == 0);
  CHECK(state_complaint(R"({"id":"a"})") == "cannot use state on stdin: /: \"bundle\" is missing");
  CHECK(state_complaint(R"({"id":"../a","bundle":"/"})") ==
        "cannot use container id \"../a\": an id consists of letters, digits and _+.-");
  CHECK(state_complaint(R"({"id":"a","bundle":"/b","pid":-3})") ==
        "cannot use state on stdin: /pid: expected a non-negative integer");
}

TEST_CASE("container ids") {
  for (const char* good : {"a", "A-b_c.d+9", "...", "0"}) CHECK_NOTHROW(check_container_id(good));
  for (const char* bad : {"", ".", "..", "a/b", "a b", "a\n", "\xc3\xa9"})
    CHECK_THROWS_AS(check_container_id(bad), stasis::Error);
}

TEST_CASE("runc's state.json") {
  auto state = parse_runc_state(read_text_file(STASIS_FIXTURES "/runc-state.json"));
  CHECK(state.id == "map1");
  CHECK(state.init_pid == 8846);
  CHECK(state.init_start == 142829);
  CHECK(state.bundle == "/srv/bundle");
  CHECK(state.rootfs == "/srv/bundle/rootfs");
  CHECK(state.cgroup_paths.at("freezer") == "/sys/fs/cgroup/freezer/map1");
  CHECK(state.cgroup_paths.at("") == "/sys/fs/cgroup/unified/map1");
  CHECK(state.namespace_paths.at("NEWNET") == "/proc/8846/ns/net");
  CHECK(state.joined_namespaces.empty());
  CHECK(state.external_descriptors.size() == 3);
  CHECK(state.mask_paths.size() == 10);
  CHECK_FALSE(state.has_cgroup_namespace);
  CHECK_FALSE(state.systemd_cgroups);
}

TEST_CASE("a container that isn't there is told by its path") {
  try {
    find_container("none", "/nonexistent");
    FAIL("found");
  } catch (const stasis::Error& error) {
    CHECK(error.what() ==
          std::string("cannot find container none: there is no /nonexistent/none/state.json"));
  }
  CHECK(list_containers("/nonexistent").empty());
}

TEST_CASE("the roots of runc") {
  auto roots = runc_roots();
  CHECK(std::count(roots.begin(), roots.end(), "/run/runc") == 1);
  pid_t child = fork();
  if (child == 0) {
    execl("/bin/sh", "sh", "-c", "kill -STOP $$", "--root", "/one", "--root=/two", "-root",
          "/three", "checkpoint", nullptr);
    _exit(1);
  }
  // Its new command line shows when it has become the shell.
  for (int patience = 0; patience < 1000 && runc_roots(child).size() < roots.size() + 3; patience++)
    usleep(10000);
  for (const char* given : {"/one", "/two", "/three"}) roots.emplace_back(given);
  CHECK(runc_roots(child) == roots);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  CHECK(runc_roots(999999999).size() == roots.size() - 3);
}

TEST_CASE("a container runs as long as its init is the one that runc knows") {
  RuncState state;
  CHECK_FALSE(is_running(state));
  state.init_pid = getpid();
  CHECK_FALSE(is_running(state));
  if (auto stat = stasis::kernel::find_stat(getpid())) state.init_start = stat->start_time;
  CHECK(is_running(state));
  CHECK_FALSE(find_running(getpid(), {"/nonexistent", "/"}));
}
