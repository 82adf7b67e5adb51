// Files opened by path, deleted ones, and what is refused.
#include <linux/kcmp.h>
#include <netinet/in.h>
#include <sys/fanotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "engine/files/obstacles.h"
#include "engine/files/test_support.h"

namespace stasis::engine::files {

TEST_CASE("files that are opened by path come back as they were") {
  if (!may_examine()) return;
  Scratch dir;
  put(dir / "data", "0123456789");
  put(dir / "log", "line\n");
  REQUIRE(symlink("data", (dir / "link").c_str()) == 0);
  Child child([&] {
    open((dir / "data").c_str(), O_RDONLY);                         // 0
    open((dir / "data").c_str(), O_RDWR | O_CLOEXEC);               // 1
    open((dir / "log").c_str(), O_WRONLY | O_APPEND | O_NONBLOCK);  // 2
    open(dir.path().c_str(), O_RDONLY | O_DIRECTORY);               // 3
    open((dir / "data").c_str(), O_PATH);                           // 4
    open((dir / "link").c_str(), O_PATH | O_NOFOLLOW);              // 5
    open("/dev/null", O_RDWR);                                      // 6
    open("/proc/version", O_RDONLY);                                // 7
    open((dir / "data").c_str(), O_RDONLY | O_NOFOLLOW);            // 8
    open("/dev/urandom", O_RDONLY);                                 // 9
    lseek(0, 3, SEEK_SET);
    lseek(1, 100, SEEK_SET);
    char bytes[7];
    (void)!read(7, bytes, sizeof bytes);
    (void)!write(2, "more\n", 5);
  });
  Written written({child.pid()});
  put(dir / "log", "line\nmore\nand what others wrote\n");
  Again again(written.checkpoint);
  REQUIRE(again.size() == 10);
  for (int number = 0; number < 10; ++number) {
    check_same(child, again, number);
    CHECK(kernel::read_link(fmt::format("/proc/self/fd/{}", again[number])) == child.link(number));
  }
  CHECK(read_some(again[0]) == "3456789");
  CHECK(fcntl(again[2], F_GETFL) & O_NONBLOCK);
}

TEST_CASE("a file that is not what it was is refused by name") {
  if (!may_examine()) return;
  Scratch dir;
  put(dir / "data", "0123456789");
  Child child([&] { open((dir / "data").c_str(), O_RDONLY); });
  Written written({child.pid()});
  auto complaint = [&] {
    try {
      Again again(written.checkpoint);
      return std::string();
    } catch (const Error& error) {
      return std::string(error.what());
    }
  };
  CHECK(complaint().empty());
  put(dir / "data", "01234");
  CHECK(complaint() ==
        fmt::format("cannot restore file {}: its size is 5, it was 10", dir / "data"));
  put(dir / "data", "0123456789");
  chmod((dir / "data").c_str(), 0600);
  CHECK(complaint().find("its mode is 100600, it was 100644") != std::string::npos);
  unlink((dir / "data").c_str());
  CHECK(complaint().find("No such file") != std::string::npos);
  REQUIRE(mkfifo((dir / "data").c_str(), 0644) == 0);  // opening it would wait
  CHECK(complaint().find("of another type") != std::string::npos);
}

TEST_CASE("one open file in many descriptors and processes stays one") {
  if (!may_examine()) return;
  Scratch dir;
  put(dir / "data", "0123456789");
  UniqueFd shared = kernel::open(dir / "data", O_RDONLY);
  REQUIRE(dup2(shared.get(), 1010) == 1010);
  auto things = [&] {
    dup2(1010, 0);
    dup2(1010, 1);
    if (int fd = open((dir / "data").c_str(), O_RDONLY); fd >= 0) dup2(fd, 5);
    close(2);
  };
  Child one(things), two(things);
  close(1010);
  Written written({one.pid(), two.pid()});
  CHECK(written.checkpoint.files.size() == 3);
  Again again(written.checkpoint);
  CHECK(again[0] == again[1]);
  CHECK(again.of(1, 0).ours == again[0]);
  CHECK(again.of(1, 5).ours != again[5]);
  CHECK(again[5] != again[0]);
}

TEST_CASE("deleted files are taken along and leave nothing behind") {
  if (!may_examine()) return;
  Scratch dir;
  std::string big(100000, 'b');
  Child child([&] {
    open((dir / "small").c_str(), O_RDWR | O_CREAT, 0640);  // 0
    open((dir / "small").c_str(), O_RDONLY);                // 1
    mkdir((dir / "gone").c_str(), 0700);
    open((dir / "gone/sparse").c_str(), O_WRONLY | O_CREAT, 0600);  // 2
    open((dir / "gone").c_str(), O_RDONLY | O_DIRECTORY);           // 3
    open(dir.path().c_str(), O_RDWR | O_TMPFILE, 0600);             // 4
    (void)!write(0, "small", 5);
    (void)!pwrite(2, big.data(), big.size(), 1 << 20);
    (void)!write(4, "unnamed", 7);
    lseek(0, 2, SEEK_SET);
    unlink((dir / "small").c_str());
    unlink((dir / "gone/sparse").c_str());
    rmdir((dir / "gone").c_str());
  });
  put(dir / "small", "another file of this name");
  Written written({child.pid()});
  size_t before =
      static_cast<size_t>(std::distance(std::filesystem::directory_iterator(dir.path()), {}));
  Again again(written.checkpoint);
  CHECK(std::distance(std::filesystem::directory_iterator(dir.path()), {}) ==
        static_cast<long>(before));
  CHECK(read_some(again[0]) == "all");
  CHECK(read_some(again[1]) == "small");
  struct statx stat = kernel::stat_fd(again[2]);
  CHECK(stat.stx_size == (1 << 20) + big.size());
  CHECK(stat.stx_nlink == 0);
  CHECK(stat.stx_blocks * 512 < 300000);
  UniqueFd sparse = kernel::open(fmt::format("/proc/self/fd/{}", again[2]), O_RDONLY);
  std::string tail(big.size(), '\0');
  REQUIRE(pread(sparse.get(), tail.data(), tail.size(), 1 << 20) == static_cast<long>(tail.size()));
  CHECK(tail == big);
  CHECK(S_ISDIR(kernel::stat_fd(again[3]).stx_mode));
  lseek(again[4], 0, SEEK_SET);
  CHECK(read_some(again[4]) == "unnamed");
  CHECK(kernel::stat_fd(again[0]).stx_ino == kernel::stat_fd(again[1]).stx_ino);
  CHECK((kernel::stat_fd(again[0]).stx_mode & 07777) == 0640);
  CHECK(kernel::read_link(fmt::format("/proc/self/fd/{}", again[2])) ==
        dir / "gone/sparse (deleted)");
}

// CRIU's --link-remap: files 1 and 2 are one, and the name of 1 is gone.
image::Checkpoint linked(const Scratch& dir, image::RemapType type) {
  image::Checkpoint checkpoint;
  for (uint32_t id : {1U, 2U}) {
    image::FileEntry& file = checkpoint.files[id];
    file.set_type(image::REG);
    file.set_id(id);
    file.mutable_reg()->set_id(id);
    file.mutable_reg()->set_flags(O_RDONLY);
    file.mutable_reg()->set_name(dir / (id == 1 ? "was/there" : "link_remap.2"));
  }
  image::RemapFilePathEntry& remap = checkpoint.remaps.emplace_back();
  remap.set_orig_id(1);
  remap.set_remap_id(2);
  remap.set_remap_type(type);
  return checkpoint;
}

TEST_CASE("a file whose name is gone is opened by another name of it") {
  if (!may_examine()) return;
  Scratch dir;
  put(dir / "link_remap.2", "linked");
  image::Checkpoint checkpoint = linked(dir, image::LINKED);
  Again again(checkpoint);
  int fd = again.restorer.get(1);
  CHECK(read_some(fd) == "linked");
  CHECK(kernel::read_link(fmt::format("/proc/self/fd/{}", fd)) == dir / "was/there (deleted)");
  CHECK(access((dir / "was").c_str(), F_OK) != 0);
  again.restorer.close_all();
  CHECK(access((dir / "link_remap.2").c_str(), F_OK) != 0);
  put(dir / "link_remap.2", "linked");
}

TEST_CASE("files held otherwise than by descriptors") {
  if (!may_examine()) return;
  Child child([] {});
  Written written({child.pid()}, fmt::format("/proc/{}/exe", child.pid()));
  const image::RegFileEntry& exe = written.checkpoint.files.at(written.path_id).reg();
  CHECK(exe.name() == kernel::read_link("/proc/self/exe"));
  Again again(written.checkpoint);
  UniqueFd fd = again.restorer.open_for_mapping(written.path_id, O_RDONLY);
  CHECK(kernel::stat_fd(fd.get()).stx_ino ==
        kernel::stat_fd(again.restorer.get(written.path_id)).stx_ino);
  CHECK(mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, fd.get(), 0) != MAP_FAILED);
}

TEST_CASE("what cannot be written down is named before anything is touched") {
  if (!may_examine()) return;
  Child child([] {
    socket(AF_INET, SOCK_DGRAM, 0);   // 0
    fanotify_init(0, 0);              // 1
    open("/dev/null", O_RDWR);        // 2
    posix_openpt(O_RDWR | O_NOCTTY);  // 3
    int yes = 1, cork = 1;
    setsockopt(0, IPPROTO_UDP, cork, &yes, sizeof yes);
  });
  DumpPlan plan;
  plan.root = child.pid();
  plan.mounts = mountmap::MountTable::read(child.pid());
  auto findings = obstacles({child.pid()}, plan);
  REQUIRE(findings.size() == 2);
  CHECK(findings[0].subject.starts_with(fmt::format("process {} (", child.pid())));
  CHECK(findings[0].what.starts_with("holds a UDP socket open as descriptor 0, that is corked"));
  CHECK(findings[1].what.starts_with("holds a fanotify"));
  for (const Finding& finding : findings) CHECK(!finding.remedy.empty());
  CHECK_THROWS_WITH(Written({child.pid()}), Catch::Contains("a UDP socket"));
}

}  // namespace stasis::engine::files
