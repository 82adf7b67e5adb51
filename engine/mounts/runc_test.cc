// The mounts of a container that runc has made, classified by the mount map.
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/mounts/sandbox_test.h"
#include "mountmap/mount_map.h"
#include "oci/config.h"

using namespace stasis;
using namespace stasis::engine;
using namespace stasis::engine::mounts::test;

namespace {

bool run(const std::string& command) { return std::system(command.c_str()) == 0; }

class Container {
 public:
  Container() {
    std::filesystem::create_directories(bundle() + "/rootfs/bin");
    std::filesystem::create_directories(bundle() + "/data/sub");
    std::filesystem::create_directories(bundle() + "/image");
    std::filesystem::copy_file("/bin/busybox", bundle() + "/rootfs/bin/sh");
    std::ofstream(bundle() + "/hosts") << "127.0.0.1 bound\n";
    std::filesystem::create_symlink(bundle() + "/data", bundle() + "/link");
    started_ = run("cd " + bundle() + " && runc spec") && configure() &&
               run("runc --root " + state() + " run -d -b " + bundle() + " " + id() +
                   " </dev/null >/dev/null 2>&1");
    std::ifstream state_file(state() + "/" + id() + "/state.json");
    if (started_) pid_ = nlohmann::json::parse(state_file)["init_process_pid"];
    // Its program has done its part when its file is there.
    std::string note = "/proc/" + std::to_string(pid_) + "/root/dev/shm/note";
    for (int i = 0; started_ && i < 1000 && !std::filesystem::exists(note); ++i) usleep(10000);
  }
  Container(const Container&) = delete;
  Container& operator=(const Container&) = delete;
  ~Container() { run("runc --root " + state() + " delete -f " + id() + " 2>/dev/null"); }

  bool started() const { return started_; }
  pid_t pid() const { return pid_; }
  std::string bundle() const { return dir_.path() + "/bundle"; }

 private:
  std::string state() const { return dir_.path() + "/state"; }
  std::string id() const { return "mounts-test-" + std::to_string(getpid()); }

  bool configure() {
    nlohmann::json config;
    std::ifstream(bundle() + "/config.json") >> config;
    config["process"]["terminal"] = false;
    config["process"]["args"] = {"/bin/sh", "-c", "echo kept >/dev/shm/note; read forever </fifo"};
    config["root"]["readonly"] = false;
    auto& mounts = config["mounts"];
    auto bind = [&](const std::string& source, const std::string& destination) {
      mounts.push_back({{"type", "bind"},
                        {"source", source},
                        {"destination", destination},
                        {"options", {"rbind", "rw"}}});
    };
    bind(bundle() + "/link", "/data");
    bind(bundle() + "/hosts", "/etc/hosts");
    mounts.push_back({{"type", "tmpfs"},
                      {"source", "scratch"},
                      {"destination", "/scratch"},
                      {"options", {"noexec", "size=1m"}}});
    std::ofstream(bundle() + "/config.json") << config;
    return mkfifo((bundle() + "/rootfs/fifo").c_str(), 0600) == 0;
  }

  Scratch dir_;
  bool started_ = false;
  pid_t pid_ = 0;
};

}  // namespace

TEST_CASE("the mounts of a container of runc come back as they were") {
  if (geteuid() != 0 || !std::filesystem::exists("/bin/busybox") || !run("runc -v >/dev/null")) {
    WARN("skipped: needs root, runc and busybox-static");
    return;
  }
  Container container;
  REQUIRE(container.started());
  auto config = oci::read_config(container.bundle());
  auto map = mountmap::map_process(container.pid(), &config, nullptr);
  DumpPlan dump_plan;
  dump_plan.root = container.pid();
  dump_plan.mounts = map.table;
  dump_plan.external_mounts = map.external_mounts();
  RestorePlan restore_plan;
  restore_plan.root = container.bundle() + "/rootfs";
  for (const auto& row : map.rows)
    if (!row.key.empty()) restore_plan.external_mounts[row.key] = row.source;
  REQUIRE(mounts::obstacles(dump_plan).empty());
  auto checkpoint = dump_to(container.bundle() + "/image", dump_plan);
  auto after = rebuild(checkpoint, restore_plan);
  REQUIRE(after->outcome() == "ok");
  auto expected = picture(map.table), got = picture(after->table());
  REQUIRE(got.size() == expected.size());
  for (size_t i = 0; i < got.size(); ++i) CHECK(got[i] == expected[i]);
  std::string note;
  std::ifstream(after->path("/dev/shm/note")) >> note;
  CHECK(note == "kept");
}

TEST_CASE("the mounts of a container that CRIU has written down can be built") {
  if (geteuid() != 0) {
    WARN("skipped: needs root");
    return;
  }
  std::string version = GENERATE("criu-4.1.1", "criu-4.2");
  INFO(version);
  std::string images = std::string(STASIS_FIXTURES) + "/images/" + version + "/demo";
  UniqueFd dir(::open(images.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  REQUIRE(dir.valid());
  auto checkpoint = image::load(dir.get());
  const auto& entries = checkpoint.mounts.at(checkpoint.root().ids.mnt_ns_id());
  Scratch host;
  RestorePlan plan;
  plan.root = host.path() + "/rootfs";
  for (const char* place : {"/etc", "/proc", "/dev", "/sys/fs/cgroup", "/tmp", "/data"})
    std::filesystem::create_directories(plan.root + place);
  std::filesystem::create_directories(host.path() + "/directory");
  std::ofstream(host.path() + "/file") << "a file of the host";
  for (const auto& entry : entries) {
    if (!entry.has_ext_key()) continue;
    bool is_file = entry.mountpoint().starts_with("/etc/");
    if (is_file) std::ofstream(plan.root + entry.mountpoint());
    plan.external_mounts[entry.ext_key()] = host.path() + (is_file ? "/file" : "/directory");
  }
  auto after = rebuild(checkpoint, plan);
  REQUIRE(after->outcome() == "ok");
  auto table = after->table();
  REQUIRE(table.mounts().size() == entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto& mount = table.mounts()[i];
    const auto& entry = entries[entries.size() - 1 - i];
    constexpr uint32_t shown = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RELATIME;
    CHECK(mount.mountpoint == entry.mountpoint());
    CHECK((mount.flags & shown) == (entry.flags() & shown));
    if (entry.has_ext_key() || entry.mountpoint() == "/") continue;
    CHECK(mount.root == entry.root());
    CHECK(mount.source == entry.source());
    CHECK((mount.sb_flags & MS_RDONLY) == (entry.sb_flags() & MS_RDONLY));
  }
  CHECK(std::filesystem::is_character_file(after->path("/proc/keys")));
}
