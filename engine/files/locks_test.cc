// File locks: what the kernel says of them, and whose they are.
#include "engine/files/locks.h"

#include <sys/file.h>

#include "engine/files/test_support.h"

namespace stasis::engine::files {

TEST_CASE("lines of file locks") {
  HeldLock posix = parse_lock("1: POSIX  ADVISORY  WRITE 1234 fd:00:13 5 9");
  CHECK(posix.taker == 1234);
  CHECK(posix.entry.flag() == image::lock_posix);
  CHECK(posix.entry.type() == F_WRLCK);
  CHECK(posix.entry.start() == 5);
  CHECK(posix.entry.len() == 5);
  HeldLock ofd = parse_lock("2: OFDLCK ADVISORY  READ -1 00:2d:4711 0 EOF");
  CHECK(ofd.entry.flag() == image::lock_ofd);
  CHECK(ofd.entry.type() == F_RDLCK);
  CHECK(ofd.entry.len() == 0);
  HeldLock lease = parse_lock("1: LEASE  BREAKING  UNLCK 77 00:2d:4711 0 EOF");
  CHECK(lease.entry.flag() == image::lock_lease);
  CHECK(lease.entry.type() == (F_UNLCK | image::lease_breaking));
  CHECK(parse_lock("1: LEASE  ACTIVE    READ 77 00:2d:4711 0 EOF").entry.type() == F_RDLCK);
  for (const char* line : {"", "1: FLOCK  MSNFS     READ 1 00:2d:1 0 EOF", "1: POSIX ADVISORY READ",
                           "1: OTHER  ADVISORY  READ 1 00:2d:1 0 EOF"})
    CHECK_THROWS_AS(parse_lock(line), Error);
}

TEST_CASE("a lock of an open file is written down once, a process's own for each") {
  if (!may_examine()) return;
  Scratch scratch;
  auto open_things = [&] {
    open((scratch / "file").c_str(), O_RDWR | O_CREAT, 0600);  // 0
    dup(0);                                                    // 1
    flock(0, LOCK_EX);
    struct flock range{F_WRLCK, SEEK_SET, 3, 4, 0};
    fcntl(1, F_SETLK, &range);
  };
  Child child(open_things);
  Written written({child.pid()}, {}, [](DumpPlan& plan) { plan.file_locks = true; });
  auto locks = written.checkpoint.dir.all<image::FileLockEntry>("filelocks");
  REQUIRE(locks.size() == 2);
  uint32_t flags = 0;
  for (const auto& lock : locks) {
    flags |= lock.flag();
    CHECK(lock.type() == F_WRLCK);
    CHECK(lock.fd() <= 1);
    if (lock.flag() != image::lock_posix) continue;
    CHECK(lock.start() == 3);
    CHECK(lock.len() == 4);
  }
  CHECK(flags == (image::lock_posix | image::lock_flock));
}

TEST_CASE("file locks are refused where nobody asked for them") {
  if (!may_examine()) return;
  Scratch scratch;
  Child child([&] {
    open((scratch / "file").c_str(), O_RDWR | O_CREAT, 0600);
    flock(0, LOCK_SH);
  });
  CHECK_THROWS_WITH(Written({child.pid()}), Catch::Contains("holds a file lock"));
}

}  // namespace stasis::engine::files
