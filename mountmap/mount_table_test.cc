#include "mountmap/mount_table.h"

#include <sys/mount.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "kernel/fs.h"

using stasis::mountmap::Mount;
using stasis::mountmap::MountTable;

namespace {

MountTable fixture(const std::string& name) {
  return MountTable::parse(
      stasis::kernel::read_file(std::string(STASIS_FIXTURES "/mounts/") + name));
}

void same(const MountTable& a, const MountTable& b) {
  REQUIRE(a.mounts().size() == b.mounts().size());
  for (size_t i = 0; i < a.mounts().size(); ++i) {
    const Mount &x = a.mounts()[i], &y = b.mounts()[i];
    INFO(x.mountpoint << " and " << y.mountpoint);
    CHECK(x.id == y.id);
    CHECK(x.parent == y.parent);
    CHECK(x.major == y.major);
    CHECK(x.minor == y.minor);
    CHECK(x.root == y.root);
    CHECK(x.mountpoint == y.mountpoint);
    CHECK(x.flags == y.flags);
    CHECK(x.sb_flags == y.sb_flags);
    CHECK(x.shared == y.shared);
    CHECK(x.master == y.master);
    CHECK(x.unbindable == y.unbindable);
    CHECK(x.idmapped == y.idmapped);
    CHECK(x.fstype == y.fstype);
    CHECK(x.source == y.source);
    CHECK(x.sb_options == y.sb_options);
  }
}

}  // namespace

TEST_CASE("all fields of a mountinfo line") {
  auto table = MountTable::parse(
      "36 35 98:0 /a\\040b /mnt\\134x\\011 ro,nosuid,nodev,noexec,noatime,nodiratime shared:7 "
      "master:1 "
      "propagate_from:2 unbindable - fuse.lxcfs src\\040dir rw,sync,lazytime,errors=continue\n");
  const Mount& m = table.mounts().at(0);
  CHECK(m.id == 36);
  CHECK(m.parent == 35);
  CHECK(m.major == 98);
  CHECK(m.minor == 0);
  CHECK(m.root == "/a b");
  CHECK(m.mountpoint == "/mnt\\x\t");
  CHECK(m.flags == (MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME));
  CHECK(m.sb_flags == (MS_SYNCHRONOUS | MS_LAZYTIME));
  CHECK(m.shared == 7);
  CHECK(m.master == 1);
  CHECK(m.unbindable);
  CHECK(m.fstype == "fuse.lxcfs");
  CHECK(m.source == "src dir");
  CHECK(m.sb_options == "errors=continue");
}

TEST_CASE("an empty source and a source called none are kept apart") {
  auto table =
      MountTable::parse("1 0 0:1 / / rw - tmpfs none rw\n2 1 0:2 / /a rw - tmpfs  rw,size=4k\n");
  CHECK(table.mounts()[0].source == "none");
  CHECK(table.mounts()[1].source.empty());
  CHECK(table.mounts()[1].sb_options == "size=4k");
}

TEST_CASE("broken mountinfo is refused with the line") {
  auto refused = [](const char* text) {
    try {
      MountTable::parse(text);
    } catch (const stasis::Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(refused("1 0 0:1 / / rw - tmpfs\n") ==
        "cannot read mountinfo line \"1 0 0:1 / / rw - tmpfs\": too few fields");
  CHECK(refused("1 0 0:1 / x rw - t t rw\n").find("found \"x\"") != std::string::npos);
  CHECK(refused("1 x 0:1 / / rw - tmpfs t rw\n").find("found \"x\"") != std::string::npos);
  CHECK(refused("1 0 0:1 / / rw shared:1 tmpfs t rw\n").find("too few") != std::string::npos);
  CHECK(refused("1 0 0:1 / / rw - a b rw\n1 0 0:1 / / rw - a b rw\n").find("twice") !=
        std::string::npos);
  CHECK(refused("1 2 0:1 / / rw - a b rw\n2 1 0:1 / / rw - a b rw\n").find("ancestor") !=
        std::string::npos);
}

TEST_CASE("the table of an LXC container, doubled mounts included") {
  auto table = fixture("overmount-2015.mountinfo");
  CHECK(table.mounts().size() == 42);
  CHECK(table.root().id == 71);
  CHECK(table.root().source == "/dev/disk/by-uuid/6c5a78e0-95fa-49a8-aa91-a8093d295e58");
  // 104 is printed before its parent 105.
  auto position = [&](int id) { return table.find(id) - table.mounts().data(); };
  CHECK(position(105) < position(104));
  CHECK(position(104) < position(106));
  CHECK(table.find(138)->root == "/cgroup/name=systemd");
  CHECK(table.find(128)->mountpoint == table.find(122)->mountpoint);
  CHECK(table.find(999) == nullptr);
}

TEST_CASE("the fixtures of aufs and of the smallest external bind") {
  CHECK(fixture("aufs.mountinfo").root().sb_options == "si=4476a910a24617e6");
  CHECK(fixture("external-bind.mountinfo").find(34)->root == "/foo");
}

TEST_CASE("a table without a root mount says so") {
  CHECK_THROWS_AS(MountTable::parse("").root(), stasis::Error);
  CHECK_THROWS_AS(MountTable::parse("5 1 0:1 / /x rw - tmpfs t rw\n").root(), stasis::Error);
}

TEST_CASE("statmount and mountinfo give the same table") {
  auto table = MountTable::read_by_statmount(getpid());
  if (!table) {
    WARN("this kernel has no complete statmount");
    return;
  }
  same(*table, MountTable::parse(stasis::kernel::read_file("/proc/self/mountinfo")));
  CHECK(table->root().unique_id != 0);
}
