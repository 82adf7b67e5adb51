#include "mountmap/cgroup_source.h"

#include <catch2/catch.hpp>

using namespace stasis;
using mountmap::cgroup_source;

TEST_CASE("a cgroup v1 mount comes back from the container's own cgroup") {
  auto host = mountmap::MountTable::parse(
      "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
      "30 20 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
      "31 20 0:31 /outer /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
      "32 20 0:32 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n");
  auto place = kernel::parse_cgroup(
      "4:cpu,cpuacct:/box\n3:memory:/outer/box\n1:name=systemd:/box\n0::/other\n");
  CHECK(cgroup_source(host, place, "/sys/fs/cgroup/cpu,cpuacct") ==
        "/sys/fs/cgroup/cpu,cpuacct/box");
  CHECK(cgroup_source(host, place, "/sys/fs/cgroup/memory/runc") == "/sys/fs/cgroup/memory/box");
  CHECK(cgroup_source(host, place, "/sys/fs/cgroup/systemd") == "/sys/fs/cgroup/systemd/box");
  CHECK(cgroup_source(host, place, "/etc/hosts") == "/etc/hosts");
  auto elsewhere = kernel::parse_cgroup("3:memory:/elsewhere\n");
  CHECK(cgroup_source(host, elsewhere, "/sys/fs/cgroup/memory") == "/sys/fs/cgroup/memory");
}
