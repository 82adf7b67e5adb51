// A bundle held against CRIU's golden image of the demo container.
#include "cli/fit.h"

#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/image_view.h"
#include "cli/remap.h"
#include "engine/image/golden.h"
#include "mountmap/config_key.h"
#include "mountmap/map_json.h"

using namespace stasis;
using namespace stasis::cli;
using mountmap::Severity;
namespace fs = std::filesystem;

namespace {

image::Checkpoint demo() {
  return image::load(image::ImageDir::of(image::golden("criu-4.2/demo")));
}

// A bundle whose sources are all there; with a cgroup namespace, as the
// controllers of the machine that runs this are not those of the image.
struct Bundle {
  fs::path path;
  Bundle() {
    char name[] = "/tmp/stasis-fit-XXXXXX";
    path = mkdtemp(name);
    fs::create_directories(path / "rootfs/etc");
    fs::create_directories(path / "data");
    for (const char* file : {"hosts", "hostname", "resolv.conf"}) {
      std::ofstream(path / file) << file;
      std::ofstream(path / "rootfs/etc" / file);
    }
  }
  ~Bundle() { fs::remove_all(path); }

  std::string text() const {
    auto bind = [](const char* destination, const char* source, const char* access) {
      return nlohmann::json{{"destination", destination},
                            {"type", "bind"},
                            {"source", source},
                            {"options", {"rbind", access}}};
    };
    auto fresh = [](const char* destination, const char* type) {
      return nlohmann::json{{"destination", destination}, {"type", type}, {"source", type}};
    };
    return nlohmann::json{
        {"root", {{"path", "rootfs"}, {"readonly", true}}},
        {"annotations", {{"org.criu.config", ""}}},
        {"mounts",
         {fresh("/proc", "proc"), fresh("/dev", "tmpfs"), fresh("/tmp", "tmpfs"),
          bind("/data", "data", "rw"), bind("/etc/hosts", "hosts", "rw"),
          bind("/etc/hostname", "hostname", "ro"), bind("/etc/resolv.conf", "resolv.conf", "ro")}},
    }
        .dump();
  }
  oci::Config config() const { return oci::parse_config(text(), path); }
};

// Without the image's cgroup controllers, which this machine may not have, and
// without the paths of the machine that it was made on.
std::vector<std::string> differences(const oci::Config& config,
                                     const std::vector<RecordedSource>& recorded = {},
                                     const image::Checkpoint& image = demo()) {
  std::vector<std::string> lines;
  for (const auto& finding : compare(image, config, recorded))
    if (finding.subject.find("/sys/fs/cgroup/") == std::string::npos &&
        finding.what.find("on /dev/vda") == std::string::npos)
      lines.push_back(std::string(name_of(finding.severity)) + ": " + one_line(finding));
  return lines;
}

oci::ConfigMount& at(oci::Config& config, const std::string& destination) {
  for (auto& mount : config.mounts)
    if (mount.destination == destination) return mount;
  throw Error("find", destination);
}

using Lines = std::vector<std::string>;

}  // namespace

TEST_CASE("a bundle that fits") {
  Bundle bundle;
  CHECK(differences(bundle.config()) == Lines{});
}

TEST_CASE("an external mount that config.json doesn't bind") {
  Bundle bundle;
  oci::Config config = bundle.config();
  std::erase_if(config.mounts, [](const auto& mount) { return mount.destination == "/data"; });
  CHECK(differences(config) ==
        Lines{"obstacle: mount /data comes from outside the container (key /data), and config.json "
              "has no mount there; bind its source there in config.json, or restore with --map "
              "/data=SOURCE"});
  config = bundle.config();
  at(config, "/data") = {"/data", "tmpfs", "tmpfs", {}};
  CHECK(differences(config).at(0).find("config.json has a tmpfs there") != std::string::npos);
}

TEST_CASE("sources that are gone or of another kind") {
  Bundle bundle;
  oci::Config config = bundle.config();
  at(config, "/data").source = bundle.path / "none";
  CHECK(differences(config).at(0) ==
        "obstacle: mount /data has no source: " + (bundle.path / "none").string() +
            " is gone; put it back, or restore with --map /data=SOURCE");
  at(config, "/data").source = bundle.path / "hosts";
  CHECK(differences(config) == Lines{});  // nothing tells what it was
  image::Checkpoint image = demo();
  auto& open = *image.files.begin()->second.mutable_reg();
  open.set_name("/data/counter");
  for (const auto& mount : image.mounts.at(image.root().ids.mnt_ns_id()))
    if (mount.mountpoint() == "/data") open.set_mnt_id(static_cast<int32_t>(mount.mnt_id()));
  CHECK(differences(config, {}, image).at(0).find("is a directory in the checkpoint") !=
        std::string::npos);
  // The image doesn't tell, but the root file system does.
  config = bundle.config();
  at(config, "/etc/hosts").source = bundle.path / "data";
  CHECK(differences(config).at(0).find("is to stand on a file") != std::string::npos);
}

TEST_CASE("a mount doesn't come back writable where config.json wants it read-only") {
  Bundle bundle;
  oci::Config config = bundle.config();
  at(config, "/etc/hosts").options = {"rbind", "ro"};
  CHECK(differences(config) ==
        Lines{"obstacle: mount /etc/hosts is writable in the checkpoint and comes back so, though "
              "config.json says read-only; make it writable in config.json, or checkpoint it "
              "read-only"});
}

TEST_CASE("differences that prevent nothing") {
  Bundle bundle;
  oci::Config config = bundle.config();
  config.root_readonly = false;
  at(config, "/tmp").type = "ramfs";
  config.mounts.push_back({"/more", "tmpfs", "tmpfs", {}});
  CHECK(
      differences(config) ==
      Lines{"warning: mount / is read-only in the checkpoint and comes back so, though "
            "config.json says writable",
            "warning: mount /tmp is a tmpfs of its own in the checkpoint and comes back so, though "
            "config.json says ramfs",
            "warning: mount /more is in config.json but not in the checkpoint: the restored "
            "container won't have it"});
  config = bundle.config();
  config.mounts.push_back({"/more", "bind", "/nonexistent/x", {"bind"}});
  CHECK(differences(config).at(0).starts_with("obstacle: mount /more"));
}

TEST_CASE("what was recorded at the checkpoint") {
  Bundle bundle;
  oci::Config config = bundle.config();
  auto data = *mountmap::identify(bundle.path / "data");
  auto hosts = *mountmap::identify(bundle.path / "hosts");
  hosts.inode += 1;
  CHECK(differences(config,
                    {{"/data", "/srv/data", data}, {"/etc/hosts", bundle.path / "hosts", hosts}}) ==
        Lines{"note: mount /data comes from " + (bundle.path / "data").string() +
                  "; at the checkpoint it came from /srv/data",
              "note: mount /etc/hosts comes from " + (bundle.path / "hosts").string() +
                  ", which was replaced since the checkpoint"});
}

TEST_CASE("without a record, what the image itself tells of the places") {
  Bundle bundle;
  oci::Config config = bundle.config();
  auto findings = compare(demo(), config, {});
  auto told = [&](const mountmap::MapFinding& finding) {
    return finding.severity == Severity::note && finding.subject == "mount /data" &&
           finding.what.find("comes from " + (bundle.path / "data").string() +
                             "; at the checkpoint it was /tmp/golden-") == 0;
  };
  CHECK(std::count_if(findings.begin(), findings.end(), told) == 1);
}

TEST_CASE("destinations with symbolic links lead where runc takes them") {
  Bundle bundle;
  oci::Config config = bundle.config();
  fs::create_directory(bundle.path / "rootfs/run");
  fs::create_directory_symlink("/run", bundle.path / "rootfs/var");
  CHECK(mountmap::key_of(config, "/var/lock") == "/run/lock");
  CHECK(mountmap::key_of(config, "/var/lock/a") == "/run/lock/a");
  CHECK(mountmap::key_of(config, "/data") == "/data");
  CHECK(mountmap::key_of(config, "/var") == "/run");
}

TEST_CASE("--map names one external mount, or learns which there are") {
  Bundle bundle;
  image::Checkpoint image = demo();
  oci::Config config = bundle.config();
  auto maps = parse_maps({"/data/=/mnt/a=b", "/etc/hosts=relative"}, image, config);
  REQUIRE(maps.size() == 2);
  CHECK(maps[0].destination == "/data");
  CHECK(maps[0].source == "/mnt/a=b");
  CHECK(maps[1].source == fs::current_path() / "relative");
  auto refusal = [&](const std::vector<std::string>& arguments) {
    try {
      parse_maps(arguments, image, config);
    } catch (const Error& error) {
      return std::string(error.what()) + "; " + error.remedy();
    }
    return std::string();
  };
  CHECK(refusal({"/etc/host=/x"}).find("did you mean /etc/hosts") != std::string::npos);
  CHECK(refusal({"/tmp=/x"}).find("/tmp is no external mount") != std::string::npos);
  CHECK(refusal({"/dev/null=/x"}).find("/dev/null is no external mount") != std::string::npos);
  CHECK(refusal({"/data"}).find("expected DEST=SOURCE") != std::string::npos);
  CHECK(refusal({"/data="}).find("expected DEST=SOURCE") != std::string::npos);
  CHECK(refusal({"/data=/x", "/data=/y"}).find("mapped twice") != std::string::npos);
}

TEST_CASE("the copy of config.json names the mapped sources and nothing by the bundle") {
  Bundle bundle;
  auto json = nlohmann::json::parse(mapped_config(
      bundle.text(), bundle.path, {{"/data", "/mnt/data", false}, {"/new", "/mnt/new", true}}));
  CHECK(json["root"]["path"] == (bundle.path / "rootfs").string());
  CHECK(json["root"]["readonly"] == true);
  CHECK(json["mounts"][3]["source"] == "/mnt/data");
  CHECK(json["mounts"][3]["options"] == nlohmann::json{"rbind", "rw"});
  CHECK(json["mounts"][4]["source"] == (bundle.path / "hosts").string());
  CHECK(json["mounts"][0]["source"] == "proc");
  CHECK(json["mounts"][7] == nlohmann::json{{"destination", "/new"},
                                            {"type", "bind"},
                                            {"source", "/mnt/new"},
                                            {"options", {"rbind", "ro"}}});
}

TEST_CASE("a bundle that isn't kept leaves what was there before") {
  Bundle place;
  std::string parent = place.path / "bundles";
  auto text = [&] {
    std::ifstream in(parent + "/web/config.json");
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  {
    MappedBundle bundle(parent, "web", "one");
  }
  CHECK_FALSE(fs::exists(parent + "/web"));
  {
    MappedBundle bundle(parent, "web", "one");
    CHECK(bundle.path() == parent + "/web");
    bundle.keep();
  }
  CHECK(text() == "one");
  {
    MappedBundle bundle(parent, "web", "two");
    CHECK(text() == "two");
  }
  CHECK(text() == "one");
  CHECK((fs::status(parent + "/web/config.json").permissions() & fs::perms(077)) ==
        fs::perms::none);
}

TEST_CASE("an image as a document") {
  auto json = view(demo());
  REQUIRE(json["mount_namespaces"].size() == 1);
  const auto& mounts = json["mount_namespaces"][0]["mounts"];
  CHECK(mounts.size() == 30);
  CHECK(mounts[0]["mountpoint"] == "/");
  CHECK(mounts[0]["class"] == "root");
  CHECK(mounts[1]["parent"] == mounts[0]["id"]);
  CHECK(mounts[18]["key"] == "/data");
  CHECK(json["tasks"][0]["threads"][0]["comm"] == "sh");
  CHECK(json["tasks"][0]["memory_bytes"] == 19 * 4096);
  CHECK(json["files"][3]["name"] == "/demo.sh");
  CHECK(json["files"][3]["access"] == "r");
  CHECK(json["namespaces"][5]["detail"] == "hostname demo");
}
