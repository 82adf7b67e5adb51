#include "plugins/aufs.h"

#include <fmt/core.h>
#include <sys/statfs.h>

#include "base/error.h"
#include "kernel/fs.h"
#include "kernel/mount_api.h"
#include "plugins/providers.h"
#include "plugins/test_support.h"

using namespace stasis;
using namespace stasis::plugins;
using Catch::Matchers::Contains;
using mountmap::Mount;
using mountmap::MountTable;

namespace {

const std::string fixtures = STASIS_FIXTURES "/mounts";
const std::string docker = "/var/lib/docker/aufs";

Mount fixture_root() {
  return MountTable::parse(kernel::read_file(fixtures + "/aufs.mountinfo")).root();
}

Mount aufs_mount(const std::string& options) {
  Mount mount;
  mount.fstype = "aufs";
  mount.mountpoint = "/";
  mount.sb_options = options;
  return mount;
}

mountmap::MappedFile there(const std::optional<mountmap::MappedFile>& found) {
  REQUIRE(found.has_value());
  return found.value_or(mountmap::MappedFile{});
}
std::string place_of(const std::optional<mountmap::MappedFile>& found) { return there(found).path; }
bool is_current(const std::optional<mountmap::MappedFile>& found) { return there(found).current; }

// Branch directories below `directory`, the topmost first.
AufsStack stack_of(const Directory& directory, const std::vector<std::string>& names) {
  AufsStack stack{.si = "1", .options = "", .branches = {}};
  for (const auto& name : names) {
    std::filesystem::create_directories(directory.path / name);
    stack.branches.push_back({directory.path / name, "rw"});
  }
  return stack;
}

}  // namespace

TEST_CASE("the branches of Docker's container in the kernel's order") {
  AufsStack stack = read_stack(fixture_root(), fixtures + "/aufs-sysfs");
  REQUIRE(stack.branches.size() == 12);
  CHECK(stack.si == "4476a910a24617e6");
  CHECK(stack.branches[0].path == docker + "/diff/ID");
  CHECK(stack.branches[0].permissions == "rw");
  CHECK(stack.branches[1].path == docker + "/diff/ID-init");
  CHECK(stack.branches[2].path == docker + "/diff/BRID1");
  CHECK(stack.branches[9].path == docker + "/diff/BRID8");
  CHECK(stack.branches[10].path == docker + "/diff/BRID9");  // as text it would come third
  CHECK(stack.branches[11].permissions == "ro+wh");
  CHECK(docker_root(stack) == docker + "/mnt/ID");
}

TEST_CASE("a branch is cut at its last equals sign") {
  CHECK(parse_branch("/a b=c/d=ro+wh").path == "/a b=c/d");
  CHECK(parse_branch("/a b=c/d=ro+wh").permissions == "ro+wh");
  CHECK(parse_branch("/a\\040b=rw").path == "/a b");
  CHECK_THROWS_AS(parse_branch("/nothing"), Error);
  CHECK_THROWS_AS(parse_branch("relative=rw"), Error);
}

TEST_CASE("any number of branches up to 999") {
  Directory sysfs;
  auto add = [&](int number) {
    sysfs.write(fmt::format("fs/aufs/si_ab/br{}", number), fmt::format("/b/{}=ro\n", number));
    sysfs.write(fmt::format("fs/aufs/si_ab/brid{}", number), "64\n");
  };
  for (int i = 0; i < 999; ++i) add(i);
  AufsStack stack = read_stack(aufs_mount("si=ab,dio"), sysfs.path);
  REQUIRE(stack.branches.size() == 999);
  CHECK(stack.branches[998].path == "/b/998");
  CHECK(stack.options == "dio");
  add(999);
  CHECK_THROWS_WITH(read_stack(aufs_mount("si=ab"), sysfs.path), Contains("more than 999"));
  std::filesystem::remove(sysfs.path / "fs/aufs/si_ab/br5");
  CHECK_THROWS_WITH(read_stack(aufs_mount("si=ab"), sysfs.path), Contains("added or removed"));
  CHECK_THROWS_AS(read_stack(aufs_mount("si=cd"), sysfs.path), Error);
  CHECK_THROWS_AS(read_stack(aufs_mount("si=../../x"), sysfs.path), Error);
  CHECK_THROWS_AS(read_stack(aufs_mount("dio"), sysfs.path), Error);
}

TEST_CASE("branches that the mount's options name") {
  AufsStack stack = read_stack(aufs_mount("si=ab,dio,br:/a=rw:/b=ro+wh"), "/nowhere");
  REQUIRE(stack.branches.size() == 2);
  CHECK(stack.branches[1].path == "/b");
  CHECK(stack.options == "dio");
}

TEST_CASE("a mapped file is found by whole parts of its path") {
  AufsStack stack{.si = "1",
                  .options = "",
                  .branches = {{"/d/diff/ID", "rw"}, {"/d/diff/ID-init", "ro"}, {"/d", "ro"}}};
  CHECK(place_of(find_inside(stack, "/d/diff/ID/bin/busybox")) == "/bin/busybox");
  CHECK(place_of(find_inside(stack, "/d/diff/ID-init/etc/hosts")) == "/etc/hosts");
  CHECK(place_of(find_inside(stack, "/d/diff/IDx/etc/hosts")) == "/diff/IDx/etc/hosts");
  CHECK_FALSE(find_inside(stack, "/dx/diff"));
  CHECK_FALSE(find_inside(stack, "/usr/bin/busybox"));
}

TEST_CASE("a mapped file that a branch above replaced or removed") {
  Directory tree;
  AufsStack stack = stack_of(tree, {"top", "mid", "low"});
  std::string low = tree.path / "low";
  for (const char* name : {"bin/kept", "bin/copied", "bin/removed", "gone/file", "opaque/file"})
    tree.write(std::string("low/") + name, "old");
  tree.write("mid/bin/copied", "new");
  tree.write("top/bin/.wh.removed", "");
  tree.write("top/.wh.gone", "");
  tree.write("mid/opaque/.wh..wh..opq", "");
  CHECK(is_current(find_inside(stack, low + "/bin/kept")));
  CHECK_FALSE(is_current(find_inside(stack, low + "/bin/copied")));
  CHECK(is_current(find_inside(stack, tree.path / "mid/bin/copied")));
  CHECK_FALSE(is_current(find_inside(stack, low + "/bin/removed")));
  CHECK_FALSE(is_current(find_inside(stack, low + "/gone/file")));
  CHECK_FALSE(is_current(find_inside(stack, low + "/opaque/file")));
}

TEST_CASE("what a mount of aufs is told, in pages") {
  AufsStack stack{.si = "1", .options = "dio,xino=/dev/shm/aufs.xino", .branches = {}};
  for (int i = 0; i < 127; ++i)
    stack.branches.push_back({fmt::format("/var/lib/docker/aufs/diff/{:064}", i), "ro+wh"});
  stack.branches[0].permissions = "rw";
  auto data = mount_data(stack, 4096);
  CHECK(data[0].starts_with("br:/var/lib/docker/aufs/diff/000"));
  CHECK(data[0].ends_with("=ro+wh,dio,xino=/dev/shm/aufs.xino"));
  std::string all;
  for (const auto& page : data) {
    CHECK(page.size() < 4096);
    all += page;
  }
  // Each branch once, in order.
  for (size_t at = 0; const auto& branch : stack.branches) {
    at = all.find(branch.path + "=" + branch.permissions, at);
    REQUIRE(at != all.npos);
  }
  size_t first = static_cast<size_t>(std::count(data[0].begin(), data[0].end(), ':'));
  CHECK(data.size() == 1 + 127 - first);
  CHECK(data[1] == "append:" + stack.branches[first].path + "=ro+wh");
  stack.branches[3].path = "/a:b";
  CHECK_THROWS_AS(mount_data(stack, 4096), Error);
}

TEST_CASE("what is written down of aufs is read again, and told line by line") {
  Aufs aufs(fixtures + "/aufs-sysfs");
  CHECK(aufs.claims(fixture_root()));
  std::string description = aufs.describe(fixture_root());
  AufsStack stack = Aufs::parse(description);
  CHECK(stack.branches.size() == 12);
  CHECK(aufs.explain(description)[10] ==
        "/sys/fs/aufs/si_4476a910a24617e6/br10 : /var/lib/docker/aufs/diff/BRID9");
  CHECK_THROWS_AS(aufs.explain(""), Error);
  CHECK_THROWS_AS(aufs.explain("1\n\nrubbish\n"), Error);
}

TEST_CASE("the plan's rows tell the branches") {
  Providers providers(fixtures + "/aufs-sysfs");
  MountTable table = MountTable::parse(kernel::read_file(fixtures + "/aufs.mountinfo") +
                                       "91 90 0:34 / /tmp rw,relatime - tmpfs tmpfs rw,mode=755\n");
  mountmap::MountMap map =
      mountmap::make_map({.container = table, .host = table, .resolve = nullptr});
  claim_rows(providers, map);
  CHECK(map.rows[0].kind == mountmap::MountClass::root);
  CHECK(map.rows[0].details.size() == 12);
  CHECK(map.rows[1].provided.provider.empty());
  REQUIRE(map.provided_mounts().size() == 1);
  CHECK(root_place(map.provided_mounts().at(90)) == docker + "/mnt/ID");
  auto find = mapped_files(map.provided_mounts().at(90));
  CHECK(place_of(find("/var/lib/docker/aufs/diff/BRID10/bin/busybox")) == "/bin/busybox");
}

// As aufs is given more layers than fit into a page; any file system that can be remounted will do.
TEST_CASE("a mount whose options come in several portions") {
  UniqueFd mount =
      kernel::mount_by_data("tmpfs", "portions", {"size=1m,mode=750", "size=2m", "size=4m"});
  struct statfs told{};
  REQUIRE(fstatfs(mount.get(), &told) == 0);
  CHECK(told.f_blocks * static_cast<uint64_t>(told.f_bsize) == 4 << 20);
  CHECK((kernel::stat_fd(mount.get()).stx_mode & 07777) == 0750);
  CHECK_THROWS_AS(kernel::mount_by_data("tmpfs", "portions", {"size=1m", "size=huge"}), Error);
}
