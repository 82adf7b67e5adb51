// Memory files.
#include "engine/files/memfd.h"

#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "engine/files/test_support.h"

namespace stasis::engine::files {

namespace {

void read_memory_inodes(image::Checkpoint& checkpoint) {
  checkpoint.memfds = checkpoint.dir.all<image::MemfdInodeEntry>("memfd");
}

struct stat stat_of(int fd) {
  struct stat stat{};
  REQUIRE(fstat(fd, &stat) == 0);
  return stat;
}

}  // namespace

TEST_CASE("memory files keep name, size, seals and how each descriptor has them open") {
  if (!may_examine()) return;
  Child child([] {
    int fd = memfd_create("one", MFD_ALLOW_SEALING);  // 0
    (void)!write(fd, "some words", 10);
    open("/proc/self/fd/0", O_RDONLY | O_CLOEXEC);  // 1
    open("/proc/self/fd/0", O_WRONLY | O_APPEND);   // 2
    open("/proc/self/fd/0", O_PATH);                // 3
    fchmod(0, 0644);
    fchown(0, 11, 12);
    fcntl(0, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL);
    memfd_create("other", 0);  // 4
    dup(0);                    // 5
    lseek(0, 3, SEEK_SET);
  });
  Written written({child.pid()});
  read_memory_inodes(written.checkpoint);
  REQUIRE(written.checkpoint.memfds.size() == 2);
  Again again(written.checkpoint);
  seal_memory(again.restorer);
  for (int number : {0, 1, 2, 3, 4, 5}) {
    check_same(child, again, number);
    CHECK(child.link(number) == kernel::read_link(fmt::format("/proc/self/fd/{}", again[number])));
  }
  CHECK(again[0] == again[5]);
  struct stat one = stat_of(again[0]);
  CHECK(one.st_size == 10);
  CHECK((one.st_mode & 07777) == 0644);
  CHECK(one.st_uid == 11);
  CHECK(one.st_gid == 12);
  for (int number : {1, 2, 3}) CHECK(stat_of(again[number]).st_ino == one.st_ino);
  CHECK(fcntl(again[0], F_GET_SEALS) == (F_SEAL_SHRINK | F_SEAL_SEAL));
  CHECK(fcntl(again[4], F_GET_SEALS) == F_SEAL_SEAL);
}

TEST_CASE("a file that is only called like a memory file is none") {
  Scratch scratch;
  put(scratch / "memfd:x", "");
  UniqueFd file = kernel::open(scratch / "memfd:x", O_RDWR);
  std::filesystem::remove(scratch / "memfd:x");
  Probe probe;
  probe.stat = kernel::stat_fd(file.get());
  probe.link = "/memfd:x (deleted)";
  CHECK_FALSE(memory_file(probe));
  UniqueFd memory(memfd_create("x", 0));
  probe.stat = kernel::stat_fd(memory.get());
  CHECK(memory_file(probe) == 0U);
}

}  // namespace stasis::engine::files
