#include "kernel/mount_api.h"

#include <sys/statfs.h>

#include <catch2/catch.hpp>

#include "base/error.h"
#include "kernel/fs.h"

using namespace stasis;
using namespace stasis::kernel;

namespace {

uint64_t size_of(int mount) {
  struct statfs told{};
  must(call(SYS_fstatfs, mount, &told), "look at", "the mount");
  return told.f_blocks * static_cast<uint64_t>(told.f_bsize);
}

}  // namespace

TEST_CASE("a mount whose options come in several portions", "[root]") {
  UniqueFd mount = mount_by_data("tmpfs", "portions", {"size=1m,mode=750", "size=2m", "size=4m"});
  CHECK(size_of(mount.get()) == 4 << 20);
  CHECK((stat_fd(mount.get()).stx_mode & 07777) == 0750);
  CHECK_THROWS_AS(mount_by_data("tmpfs", "portions", {"size=1m", "size=huge"}), Error);
}
