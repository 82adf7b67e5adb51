#include "mountmap/mount_map.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "kernel/fs.h"
#include "mountmap/map_json.h"
#include "mountmap/test_support.h"

using namespace stasis::mountmap;
using stasis::oci::Config;

namespace {

std::string text(const std::string& name) {
  return stasis::kernel::read_file(STASIS_FIXTURES "/mounts/" + name);
}
MountTable fixture(const std::string& name) { return MountTable::parse(text(name)); }
Config runc_config() { return stasis::oci::parse_config(text("runc-config.json"), "/srv/bundle"); }

bool has_finding(const MountMap& map, Severity severity, std::string_view words) {
  for (const auto& finding : map.findings)
    if (finding.severity == severity && finding.what.find(words) != std::string::npos) return true;
  return false;
}

const char* const host_text =
    "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:5 / /dev rw - devtmpfs udev rw\n"
    "3 1 8:2 /vols /srv rw - ext4 /dev/sda2 rw\n4 1 0:9 / /tmp rw - tmpfs tmpfs rw\n";

MountMap map_of(const std::string& mounts, const std::string& config = "",
                const std::string& host = host_text) {
  auto container = MountTable::parse("90 9 8:1 /c/rootfs / rw - ext4 /dev/sda1 rw\n" + mounts);
  auto host_table = MountTable::parse(host);
  Config parsed;
  if (!config.empty()) parsed = stasis::oci::parse_config("{\"mounts\":[" + config + "]}", "/c");
  return make_map({.container = container,
                   .host = host_table,
                   .config = config.empty() ? nullptr : &parsed,
                   .resolve = {}});
}

std::string bind(const std::string& source, const std::string& destination) {
  return R"({"destination":")" + destination + R"(","type":"bind","source":")" + source +
         R"(","options":["rbind"]})";
}

// A directory of its own, removed again.
struct Scratch {
  std::filesystem::path path;
  Scratch() {
    char name[] = "/tmp/stasis-map-XXXXXX";
    path = mkdtemp(name);
  }
  ~Scratch() { std::filesystem::remove_all(path); }
  std::string file(const std::string& name) const {
    std::ofstream(path / name) << name;
    return path / name;
  }
};

// A map of one external mount with that source and no live mount.
MountMap sourced(const std::string& source) {
  MountMap map;
  MapRow& row = map.rows.emplace_back();
  row.kind = MountClass::external;
  row.external = ExternalKind::directory;
  row.key = row.mount.mountpoint = "/nowhere in any container";
  row.source = source;
  return map;
}

}  // namespace

TEST_CASE("a container of runc under cgroup v1") {
  auto container = fixture("runc-cgroup1.mountinfo"), host = fixture("host-cgroup1.mountinfo");
  auto config = runc_config();
  auto map = make_map({.container = container, .host = host, .config = &config, .resolve = {}});
  CHECK(map.findings.empty());
  CHECK(map.rows.size() == 30);
  CHECK(at(map, "/").kind == MountClass::root);
  CHECK(at(map, "/").source == "/srv/bundle/rootfs");
  for (const char* own : {"/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/cache",
                          "/sys/fs/cgroup", "/proc/bus", "/proc/sys", "/proc/acpi"}) {
    INFO(own);
    CHECK(at(map, own).kind == MountClass::own);
  }
  CHECK(at(map, "/proc/bus").reason == "bind of /proc/bus inside the container");
  CHECK(at(map, "/data").source == "/srv/source/dir");
  CHECK(at(map, "/data").key == "/data");
  CHECK(at(map, "/proc/keys").external == ExternalKind::masked);
  CHECK(at(map, "/proc/keys").key == "/dev/null");
  // Each controller its own key and the container's own directory: joined from
  // mountpoint and the path relative to the hierarchy's root.
  const MapRow& memory = at(map, "/sys/fs/cgroup/memory");
  CHECK(memory.external == ExternalKind::cgroup);
  CHECK(memory.key == "/sys/fs/cgroup/memory");
  CHECK(memory.source == "/sys/fs/cgroup/memory/outer/map1");
  CHECK(at(map, "/sys/fs/cgroup/systemd").source == "/sys/fs/cgroup/systemd/map1");
  CHECK(map.external_mounts().size() == 15);
}

TEST_CASE("the same with a cgroup namespace: the hierarchies are mounted anew") {
  auto container = fixture("runc-cgroup1.mountinfo"), host = fixture("host-cgroup1.mountinfo");
  auto config = runc_config();
  auto map = make_map({.container = container,
                       .host = host,
                       .config = &config,
                       .cgroup_namespace = true,
                       .resolve = {}});
  CHECK(at(map, "/sys/fs/cgroup/memory").kind == MountClass::own);
  CHECK(map.external_mounts().size() == 6);
}

TEST_CASE("a container of runc under cgroup v2") {
  auto container = fixture("runc-cgroup2.mountinfo"), host = fixture("host-cgroup2.mountinfo");
  auto config = runc_config();
  auto map = make_map({.container = container, .host = host, .config = &config, .resolve = {}});
  CHECK(at(map, "/sys/fs/cgroup").kind == MountClass::own);
  CHECK(map.external_mounts().size() == 6);
  CHECK(map.findings.empty());
}

TEST_CASE("cgroup v2 in a cgroup namespace: its root is a group of the host's hierarchy") {
  auto host = fixture("host-cgroup2.mountinfo");
  auto mounts = fixture("runc-cgroup2.mountinfo").mounts();
  for (auto& mount : mounts)
    if (mount.fstype == "cgroup2") mount.root = "/user.slice/web";
  MountTable container(mounts);
  auto config = runc_config();
  auto map = make_map({.container = container,
                       .host = host,
                       .config = &config,
                       .cgroup_namespace = true,
                       .resolve = {}});
  CHECK(at(map, "/sys/fs/cgroup").kind == MountClass::own);
  CHECK(map.findings.empty());
}

TEST_CASE("without config.json the tables alone give the same classes") {
  auto container = fixture("runc-cgroup1.mountinfo"), host = fixture("host-cgroup1.mountinfo");
  auto config = runc_config();
  auto known = make_map({.container = container, .host = host, .config = &config, .resolve = {}});
  auto guessed = make_map({.container = container, .host = host, .resolve = {}});
  CHECK(known.external_mounts() == guessed.external_mounts());
  CHECK(at(guessed, "/data").source == "/srv/source/dir");
}

TEST_CASE("in a hook, before the container's init pivots into its root") {
  auto all = fixture("runc-cgroup1-before-pivot.mountinfo");
  auto table = all.below("/srv/bundle/rootfs");
  CHECK(table.root().root == "/srv/bundle/rootfs");
  auto host = fixture("host-cgroup1.mountinfo");
  auto config = runc_config();
  auto map = make_map({.container = table, .host = host, .config = &config, .resolve = {}});
  CHECK(map.findings.empty());
  CHECK(at(map, "/etc/hosts").source == "/srv/source/hosts");
  CHECK(at(map, "/cache").kind == MountClass::own);
  CHECK(all.below("/srv/bundle").mounts().empty());
}

TEST_CASE("the container's own tmpfs over a volume is not the volume") {
  auto map =
      map_of("91 90 8:2 /vols/a /vol rw - ext4 /dev/sda2 rw\n92 91 0:77 / /vol rw - tmpfs t rw\n",
             bind("/srv/a", "/vol"));
  CHECK(map.external_mounts() == std::map<int, std::string>{{91, "/vol"}});
  CHECK(map.rows[2].kind == MountClass::own);
}

TEST_CASE("a tmpfs below a volume is not the volume either") {
  auto map =
      map_of("91 90 0:77 / /vol rw - tmpfs t rw\n92 91 8:2 /vols/a /vol rw - ext4 /dev/sda2 rw\n",
             R"({"destination":"/vol","type":"tmpfs","source":"t"},)" + bind("/srv/a", "/vol"));
  CHECK(map.external_mounts() == std::map<int, std::string>{{92, "/vol"}});
}

TEST_CASE("a volume that was taken away and a tmpfs put there") {
  auto map = map_of("91 90 0:77 / /vol rw - tmpfs t rw\n", bind("/srv/a", "/vol"));
  CHECK(map.external_mounts().empty());
  CHECK(has_finding(map, Severity::warning, "config.json binds /srv/a here"));
}

TEST_CASE("a tmpfs of the host is shared, not copied") {
  auto map = map_of("91 90 0:9 /x /vol rw - tmpfs tmpfs rw\n92 90 0:9 / /t rw - tmpfs tmpfs rw\n");
  CHECK(at(map, "/vol").source == "/tmp/x");
  CHECK(at(map, "/t").source == "/tmp");
  CHECK(at(map, "/t").kind == MountClass::external);
}

TEST_CASE("binds inside the container, also of external ones, are its own") {
  auto map = map_of(
      "91 90 8:2 /vols/a /vol rw - ext4 /dev/sda2 rw\n92 90 8:2 /vols/a/x /y rw - ext4 /dev/sda2 "
      "rw\n93 90 8:1 /c/rootfs/etc /e rw - ext4 /dev/sda1 rw\n94 90 8:1 /c/rootfsX /z rw - ext4 "
      "/dev/sda1 rw\n",
      bind("/srv/a", "/vol"));
  CHECK(at(map, "/y").reason == "bind of /vol/x inside the container");
  CHECK(at(map, "/e").reason == "bind of /etc inside the container");
  // Only a path that begins alike.
  CHECK(at(map, "/z").kind == MountClass::external);
  CHECK(at(map, "/z").source == "/c/rootfsX");
}

TEST_CASE("what came with a recursive bind is named so") {
  auto map = map_of(
      "91 90 8:1 /data /vol rw - ext4 /dev/sda1 rw\n92 91 0:9 / /vol/sub rw - tmpfs tmpfs rw\n",
      bind("/data", "/vol"));
  CHECK(at(map, "/vol/sub").reason == "came with the recursive bind /vol");
  CHECK(at(map, "/vol/sub").key == "/vol/sub");
  // runc would not name a source for it.
  CHECK(has_finding(map, Severity::obstacle, "comes from the host's /tmp, which config.json"));
}

TEST_CASE("a source is found where the host shows it, not below what covers it") {
  auto host = std::string(host_text) + "5 3 0:30 / /srv/a rw - tmpfs over rw\n";
  auto map = map_of("91 90 8:2 /vols/a /vol rw - ext4 /dev/sda2 rw\n", "", host);
  CHECK(at(map, "/vol").source.empty());
  host += "6 1 8:2 / /all rw - ext4 /dev/sda2 rw\n";
  CHECK(at(map_of("91 90 8:2 /vols/a /vol rw - ext4 /dev/sda2 rw\n", "", host), "/vol").source ==
        "/all/vols/a");
}

TEST_CASE("devices, deleted roots and file systems that only the container has") {
  auto map = map_of(
      "91 90 0:5 /fuse /dev/fuse rw - devtmpfs udev rw\n"
      "92 90 8:2 /vols/f//deleted /f rw - ext4 /dev/sda2 rw\n"
      "93 90 8:9 / /disk rw - ext4 /dev/sdb rw\n94 90 0:88 /part /p rw - tmpfs t rw\n",
      bind("/srv/f", "/f"));
  CHECK(at(map, "/dev/fuse").external == ExternalKind::device);
  CHECK(at(map, "/dev/fuse").source == "/dev/fuse");
  CHECK(at(map, "/f").source == "/srv/f");
  CHECK(at(map, "/disk").reason == "file system (ext4) that the container mounted itself");
  CHECK(at(map, "/p").kind == MountClass::external);
  CHECK(at(map, "/p").source.empty());
}

TEST_CASE("device nodes bound by the runtime have the key that it gives them") {
  auto map = map_of(
      "91 90 0:5 /zero /dev/zero rw - devtmpfs udev rw\n92 90 0:5 /zero /z rw - devtmpfs udev rw\n"
      "93 90 0:5 /kvm /dev/kvm rw - devtmpfs udev rw\n",
      bind("/srv/a", "/nothing"));
  CHECK(at(map, "/dev/zero").key == "/dev/zero");
  CHECK(at(map, "/z").reason == "bind of /dev/zero inside the container");
  CHECK(has_finding(map, Severity::obstacle, "comes from the host's /dev/kvm"));
}

TEST_CASE("two volumes on one mountpoint can't be told apart by a key") {
  auto map = map_of(
      "91 90 8:2 /vols/a /vol rw - ext4 /dev/sda2 rw\n92 91 8:2 /vols/b /vol rw - ext4 /dev/sda2 "
      "rw\n",
      bind("/srv/a", "/vol") + "," + bind("/srv/b", "/vol"));
  CHECK(has_finding(map, Severity::obstacle, "is external twice: /srv/a and /srv/b"));
}

TEST_CASE("a destination that goes through a symbolic link") {
  auto container = MountTable::parse(
      "90 9 8:1 /c/rootfs / rw - ext4 /dev/sda1 rw\n91 90 8:2 /vols/a /run/a rw - ext4 /dev/sda2 "
      "rw\n");
  auto host = MountTable::parse(host_text);
  auto config =
      stasis::oci::parse_config("{\"mounts\":[" + bind("/srv/a", "/var/run/a") + "]}", "/c");
  auto map = make_map({.container = container,
                       .host = host,
                       .config = &config,
                       .resolve = [](const std::string& path) { return path.substr(4); }});
  CHECK(map.findings.empty());
  CHECK(at(map, "/run/a").reason == "config.json binds it from the host");
}

TEST_CASE("the LXC container of 2015 and the one on aufs") {
  auto host = MountTable::parse(host_text);
  auto lxc = fixture("overmount-2015.mountinfo"), aufs = fixture("aufs.mountinfo");
  auto map = make_map({.container = lxc, .host = host, .resolve = {}});
  CHECK(map.rows.size() == 42);
  CHECK(at(map, "/dev/console").kind == MountClass::external);
  CHECK(at(map, "/sys/devices/virtual/net").kind == MountClass::own);
  CHECK(make_map({.container = aufs, .host = host, .resolve = {}}).rows[0].kind ==
        MountClass::root);
}

TEST_CASE("sources are known by what they are") {
  Scratch scratch;
  auto file = scratch.file("hosts");
  int root = open("/", O_PATH);
  SourceRecord created{{"/nowhere in any container", identify(file).value_or(FileIdentity{})}};

  auto map = sourced(file);
  examine_sources(map, root, &created);
  CHECK(map.findings.empty());
  CHECK(map.rows[0].external == ExternalKind::file);

  std::filesystem::rename(scratch.file("new"), file);
  map = sourced(file);
  examine_sources(map, root, &created);
  CHECK(has_finding(map, Severity::warning, "was replaced since the container was created"));

  std::filesystem::remove(file);
  map = sourced(file);
  examine_sources(map, root, &created);
  CHECK(has_finding(map, Severity::obstacle, "is gone"));

  std::filesystem::create_directory(file);
  map = sourced(file);
  examine_sources(map, root, &created);
  CHECK(has_finding(map, Severity::obstacle, "was a file and is a directory now"));

  std::filesystem::create_symlink(file, scratch.path / "link");
  map = sourced(scratch.path / "link");
  examine_sources(map, root, nullptr);
  CHECK(has_finding(map, Severity::note, "is a symbolic link to"));
  close(root);
}

TEST_CASE("JSON of a row survives paths that aren't UTF-8") {
  MapRow row;
  row.mount.mountpoint = "/a\xff\"b";
  row.kind = MountClass::external;
  row.root = {.major = 8, .minor = 1, .inode = 7, .born_ns = 5, .mount = 3, .directory = true};
  auto text = dump_json(to_json(row));
  stasis::oci::Document document(text, "row");
  auto identity = identity_from(document.root().at("identity"));
  CHECK(identity.same_file(row.root));
  CHECK(identity.directory);
  CHECK(document.root().string("mountpoint").starts_with("/a"));
}
