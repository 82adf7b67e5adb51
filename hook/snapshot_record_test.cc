#include "hook/snapshot_record.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

namespace stasis::hook {

using nlohmann::json;

namespace {

json config(const std::string& id, const std::string& bundle) {
  return {{"hostname", id},
          {"root", {{"path", "/layers/" + id}}},
          {"process",
           {{"args", {"/bin/web", id}}, {"env", {"PATH=/bin", "HOSTNAME=" + id}}, {"cwd", "/"}}},
          {"annotations", {{"org.example", id}, {"dev.stasis.snapshot", "web"}}},
          {"mounts",
           {{{"destination", "/etc/hosts"},
             {"type", "bind"},
             {"source", "/var/lib/store/" + id + "/hosts"}},
            {{"destination", "/data"},
             {"source", bundle + "/data"},
             {"type", "none"},
             {"options", {"rbind"}}}}},
          {"linux",
           {{"cgroupsPath", "/" + id},
            {"namespaces", {{{"type", "network"}, {"path", "/run/netns/" + id}}}}}}};
}

json essence_of(const json& config, const std::string& id, const std::string& bundle) {
  return essence(config.dump(), bundle, id);
}

}  // namespace

TEST_CASE("What is a container's own doesn't tell it from another; all else does") {
  json a = config("a1", "/b/a1"), b = config("b2", "/b/b2");
  b["process"]["args"][1] = "a1";
  CHECK(difference(essence_of(a, "a1", "/b/a1"), essence_of(b, "b2", "/b/b2")).empty());
  std::reverse(b["mounts"].begin(), b["mounts"].end());
  CHECK(difference(essence_of(a, "a1", "/b/a1"), essence_of(b, "b2", "/b/b2")).empty());
  json other = b;
  other["process"]["args"][1] = "b2";
  CHECK(difference(essence_of(a, "a1", "/b/a1"), essence_of(other, "b2", "/b/b2")) ==
        "/process/args/1");
  other = b;
  other["mounts"][0]["source"] = "/elsewhere";
  CHECK(difference(essence_of(a, "a1", "/b/a1"), essence_of(other, "b2", "/b/b2")) ==
        "/mounts/0/source");
  other = b;
  other["annotations"]["dev.stasis.snapshot"] = "mail";
  CHECK_FALSE(difference(essence_of(a, "a1", "/b/a1"), essence_of(other, "b2", "/b/b2")).empty());
  other = b;
  other["linux"]["namespaces"][0]["type"] = "ipc";
  CHECK_FALSE(difference(essence_of(a, "a1", "/b/a1"), essence_of(other, "b2", "/b/b2")).empty());
}

TEST_CASE("A file of another size, of another time or without a name is a changed one") {
  std::string path = std::filesystem::temp_directory_path() / "stasis-record-test";
  std::ofstream(path) << "program";
  struct stat stat{};
  REQUIRE(::stat(path.c_str(), &stat) == 0);
  RecordedFile program{path, 7, stat.st_mtim.tv_sec, stat.st_mtim.tv_nsec};
  RecordedFile data{path, 7};
  CHECK(changed_file(files_from(to_json({program, data})), getpid()).empty());
  timespec times[2] = {{1, 0}, {1, 0}};
  utimensat(AT_FDCWD, path.c_str(), times, 0);
  CHECK(changed_file({data}, getpid()).empty());
  CHECK(changed_file({data, program}, getpid()) == path);
  std::ofstream(path) << "longer program";
  CHECK(changed_file({data}, getpid()) == path);
  std::filesystem::remove(path);
  CHECK(changed_file({data}, getpid()) == path);
}

TEST_CASE("Files that the arguments name are recorded") {
  json config = {{"process", {{"args", {"sh", "/proc/version", "passwd"}}, {"cwd", "/etc"}}}};
  auto files = recorded_files({}, config, getpid());
  REQUIRE(files.size() == 1);
  CHECK(files[0].path == "/etc/passwd");
}

}  // namespace stasis::hook
