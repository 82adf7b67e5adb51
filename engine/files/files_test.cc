// Real processes: a child opens things, is written down, and what is made
// again is compared with what the child has.
#include <fcntl.h>
#include <fmt/core.h>
#include <linux/kcmp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <functional>

#undef sigmask  // glibc's macro, a field of the image's SignalfdEntry

#include "base/scope_exit.h"
#include "engine/files/dumper.h"
#include "engine/files/obstacles.h"
#include "engine/files/restorer.h"
#include "engine/image/checkpoint.h"
#include "kernel/fs.h"

using namespace stasis;
using namespace stasis::engine;

namespace {

bool may_examine() {
  if (geteuid() == 0) return true;
  WARN("skipped: needs root to take duplicates of another process's descriptors");
  return false;
}

// A process without any descriptor but those that `open_things` opens.
class Child {
 public:
  explicit Child(const std::function<void()>& open_things) {
    int ready[2];
    if (pipe(ready) != 0) throw std::runtime_error("pipe");
    pid_ = fork();
    if (pid_ == 0) {
      dup3(ready[1], 1000, O_CLOEXEC);
      close_range(0, 999, 0);
      open_things();
      (void)!write(1000, "x", 1);
      close_range(1000, ~0U, 0);
      for (;;) pause();
    }
    close(ready[1]);
    char byte;
    while (read(ready[0], &byte, 1) > 0) continue;  // until all is open and closed
    close(ready[0]);
    kill(pid_, SIGSTOP);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }
  // What the kernel says of a descriptor, less what another process must differ in.
  kernel::FdInfo info(int fd) const {
    return kernel::parse_fdinfo(kernel::read_file(fmt::format("/proc/{}/fdinfo/{}", pid_, fd)));
  }
  std::string link(int fd) const {
    return kernel::read_link(fmt::format("/proc/{}/fd/{}", pid_, fd));
  }

 private:
  pid_t pid_ = -1;
};

class Scratch {
 public:
  Scratch() {
    char name[] = "/tmp/files_test.XXXXXX";
    path_ = mkdtemp(name);
  }
  ~Scratch() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::vector<image::PipeData> pipe_data(const image::ImageDir& dir, const std::string& stem) {
  std::vector<image::PipeData> all;
  if (!dir.has(stem)) return all;
  image::Reader reader = dir.read(stem);
  for (image::PipeDataEntry entry; reader.next(entry);)
    all.push_back({entry, std::string(reader.payload(entry.bytes()))});
  return all;
}

// The files part of a checkpoint of these processes.
struct Written {
  Scratch scratch;
  image::Checkpoint checkpoint;
  uint32_t path_id = 0;

  explicit Written(std::vector<pid_t> pids, const std::string& path_link = {}) {
    DumpPlan plan;
    plan.root = pids.front();
    plan.mounts = mountmap::MountTable::read(plan.root);
    NullLog log;
    UniqueFd dir = kernel::open(scratch.path(), O_RDONLY | O_DIRECTORY);
    {
      image::ImageWriter writer(dir.get());
      files::Dumper dumper(plan, writer, log);
      uint32_t table = 1;
      for (pid_t pid : pids) dumper.descriptors(pid, kernel::pidfd_open(pid).get(), table++);
      if (!path_link.empty()) path_id = dumper.path_file(path_link, O_RDONLY);
      dumper.finish();
      writer.flush();
      image::InventoryEntry inventory;
      inventory.set_img_version(1);
      writer.publish(inventory);
    }
    checkpoint.dir = image::ImageDir::open(dir.get());
    for (auto& entry : checkpoint.dir.all<image::FileEntry>("files"))
      checkpoint.files[entry.id()] = entry;
    for (uint32_t table = 1; table <= pids.size(); ++table) {
      checkpoint.tasks.emplace_back().fds =
          checkpoint.dir.all<image::FdinfoEntry>(fmt::format("fdinfo-{}", table));
    }
    checkpoint.remaps = checkpoint.dir.all<image::RemapFilePathEntry>("remap-fpath");
    checkpoint.pipes = pipe_data(checkpoint.dir, "pipes-data");
    checkpoint.fifos = pipe_data(checkpoint.dir, "fifo-data");
  }
};

// What was made again, by the numbers that it had.
class Again {
 public:
  explicit Again(const image::Checkpoint& checkpoint, RestorePlan plan = {})
      : plan_(std::move(plan)),
        root_(kernel::open("/", O_PATH)),
        restorer(checkpoint, plan_, log_) {
    restorer.set_root(root_.get());
    for (const image::TaskImage& task : checkpoint.tasks) {
      auto& table = tables_.emplace_back();
      for (auto slot : restorer.descriptors(task)) table[slot.target] = slot;
    }
  }
  int operator[](int number) { return of(0, number).ours; }
  files::Restorer::Slot of(size_t task, int number) {
    REQUIRE(tables_[task].contains(number));
    return tables_[task][number];
  }
  size_t size() const { return tables_[0].size(); }

 private:
  NullLog log_;
  RestorePlan plan_;
  UniqueFd root_;
  std::vector<std::map<int, files::Restorer::Slot>> tables_;

 public:
  files::Restorer restorer;
};

kernel::FdInfo info_of(int fd) {
  return kernel::parse_fdinfo(kernel::read_file(fmt::format("/proc/self/fdinfo/{}", fd)));
}

void check_same(const Child& child, Again& again, int number) {
  INFO("descriptor " << number << ": " << child.link(number));
  auto was = child.info(number), is = info_of(again[number]);
  CHECK(is.pos == was.pos);
  CHECK((is.flags & ~O_CLOEXEC) == (was.flags & ~O_CLOEXEC));
  CHECK(again.of(0, number).cloexec == ((was.flags & O_CLOEXEC) != 0));
  CHECK(is.mnt_id == was.mnt_id);
}

std::string read_some(int fd) {
  char bytes[65536];
  long n = read(fd, bytes, sizeof bytes);
  return n < 0 ? "error" : std::string(bytes, static_cast<size_t>(n));
}

void put(const std::string& path, const std::string& text) {
  UniqueFd fd = kernel::open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  kernel::write_all(fd.get(), text, path);
}

}  // namespace

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
    dup2(open((dir / "data").c_str(), O_RDONLY), 5);
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

TEST_CASE("a pipe comes back with what waits in it") {
  if (!may_examine()) return;
  std::string text(100000, 'x');
  Child child([&] {
    int fds[2];
    (void)!pipe2(fds, O_NONBLOCK);  // 0, 1
    fcntl(1, F_SETPIPE_SZ, 1 << 18);
    (void)!write(1, text.data(), text.size());
    open("/proc/self/fd/1", O_RDWR);  // 2
    (void)!pipe2(fds, O_CLOEXEC);     // 3, 4
    close(4);
  });
  Written written({child.pid()});
  Again again(written.checkpoint);
  for (int number : {0, 1, 2, 3}) {
    auto was = child.info(number), is = info_of(again[number]);
    CHECK((is.flags & ~O_CLOEXEC) == (was.flags & ~O_CLOEXEC));
  }
  CHECK(fcntl(again[0], F_GETPIPE_SZ) == 1 << 18);
  std::string got;
  for (std::string part; (part = read_some(again[0])) != "error" && !part.empty();) got += part;
  CHECK(got == text);
  REQUIRE(write(again[1], "ping", 4) == 4);
  CHECK(read_some(again[2]) == "ping");
  CHECK(syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, again[1], again[2]) != 0);
  int third = dup(again[3]);
  again.restorer.close_all();
  CHECK(read_some(third).empty());  // its writer was gone
  close(third);
  // The child has lost nothing.
  UniqueFd theirs = kernel::pidfd_getfd(kernel::pidfd_open(child.pid()).get(), 0);
  CHECK(read_some(theirs.get()) == text.substr(0, 65536));
}

TEST_CASE("packets of a pipe stay packets") {
  if (!may_examine()) return;
  Child child([&] {
    int fds[2];
    (void)!pipe2(fds, O_DIRECT | O_NONBLOCK);
    (void)!write(1, "one", 3);
    (void)!write(1, "three", 5);
  });
  Written written({child.pid()});
  Again again(written.checkpoint);
  CHECK(read_some(again[0]) == "one");
  CHECK(read_some(again[0]) == "three");
  CHECK((info_of(again[1]).flags & O_DIRECT) != 0);
}

TEST_CASE("an inherited pipe takes the place of the dumped one") {
  if (!may_examine()) return;
  int outside[2];
  REQUIRE(pipe2(outside, O_CLOEXEC) == 0);
  REQUIRE(dup2(outside[1], 1010) == 1010);
  Child child([&] {
    dup2(1010, 1);
    dup2(1010, 2);
  });
  close(1010);
  std::string key = child.link(1);
  Written written({child.pid()});
  int fresh[2];
  REQUIRE(pipe2(fresh, O_NONBLOCK) == 0);
  RestorePlan plan;
  plan.inherited_fds[key] = fresh[1];
  Again again(written.checkpoint, plan);
  CHECK(again[1] == again[2]);
  REQUIRE(write(again[1], "out", 3) == 3);
  CHECK(read_some(fresh[0]) == "out");
  CHECK((fcntl(again[1], F_GETFL) & O_NONBLOCK) == 0);
  for (int fd : {outside[0], outside[1], fresh[0], fresh[1]}) close(fd);
}

TEST_CASE("a named pipe comes back without waiting") {
  if (!may_examine()) return;
  Scratch dir;
  std::string path = dir / "fifo";
  REQUIRE(mkfifo(path.c_str(), 0600) == 0);
  Child child([&] {
    open(path.c_str(), O_RDONLY | O_NONBLOCK);  // 0
    open(path.c_str(), O_WRONLY);               // 1
    fcntl(0, F_SETFL, 0);
    (void)!write(1, "waiting", 7);
  });
  Written written({child.pid()});
  {  // still open outside: nothing is put in twice
    Again again(written.checkpoint);
    CHECK(read_some(again[0]) == "waiting");
    kill(child.pid(), SIGKILL);
    waitid(P_PID, static_cast<id_t>(child.pid()), nullptr, WEXITED | WNOWAIT);
  }
  Again again(written.checkpoint);
  CHECK(read_some(again[0]) == "waiting");
  CHECK(fcntl(again[0], F_GETFL) == (O_RDONLY | 0100000));
}

TEST_CASE("event counters keep count, mode and flags") {
  if (!may_examine()) return;
  Child child([&] {
    eventfd(5, EFD_NONBLOCK);                 // 0
    eventfd(7, EFD_SEMAPHORE | EFD_CLOEXEC);  // 1
    eventfd(0, 0);                            // 2
  });
  Written written({child.pid()});
  Again again(written.checkpoint);
  for (int number : {0, 1, 2}) check_same(child, again, number);
  eventfd_t count = 0;
  REQUIRE(eventfd_read(again[0], &count) == 0);
  CHECK(count == 5);
  if (child.info(1).find("eventfd-semaphore")) {
    REQUIRE(eventfd_read(again[1], &count) == 0);
    CHECK(count == 1);
  }
}

TEST_CASE("timer descriptors go on where they stood") {
  if (!may_examine()) return;
  Child child([] {
    timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);  // 0: relative, repeating
    timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC);    // 1: absolute
    timerfd_create(CLOCK_BOOTTIME, 0);              // 2: expired once
    timerfd_create(CLOCK_MONOTONIC, 0);             // 3: never set
    itimerspec soon{{5, 500}, {1000, 0}}, once{{0, 0}, {0, 1}},
        at{{0, 0}, {time(nullptr) + 500, 0}};
    timerfd_settime(0, 0, &soon, nullptr);
    timerfd_settime(1, TFD_TIMER_ABSTIME, &at, nullptr);
    timerfd_settime(2, 0, &once, nullptr);
    usleep(1000);
  });
  Written written({child.pid()});
  Again again(written.checkpoint);
  for (int number : {0, 1, 2, 3}) {
    check_same(child, again, number);
    for (const char* key : {"clockid", "ticks", "settime", "it_interval"})
      CHECK(*info_of(again[number]).find(key) == *child.info(number).find(key));
    itimerspec time{}, theirs{};
    REQUIRE(timerfd_gettime(again[number], &time) == 0);
    UniqueFd copy = kernel::pidfd_getfd(kernel::pidfd_open(child.pid()).get(), number);
    REQUIRE(timerfd_gettime(copy.get(), &theirs) == 0);
    CHECK(std::abs(time.it_value.tv_sec - theirs.it_value.tv_sec) <= 2);
  }
}

TEST_CASE("signal descriptors keep their mask") {
  if (!may_examine()) return;
  Child child([] {
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    sigaddset(&mask, SIGRTMAX);
    signalfd(-1, &mask, SFD_NONBLOCK);
  });
  Written written({child.pid()});
  Again again(written.checkpoint);
  check_same(child, again, 0);
  CHECK(*info_of(again[0]).find("sigmask") == *child.info(0).find("sigmask"));
}

TEST_CASE("an epoll's watches are put in by the task that has their numbers") {
  if (!may_examine()) return;
  Child child([] {
    int fds[2];
    epoll_create1(EPOLL_CLOEXEC);  // 0
    (void)!pipe(fds);              // 1, 2
    eventfd(0, 0);                 // 3
    epoll_event read{EPOLLIN | EPOLLET, {.u64 = 0x123456789abcdef0}}, moved{EPOLLOUT, {.u64 = 7}};
    epoll_ctl(0, EPOLL_CTL_ADD, 1, &read);
    epoll_ctl(0, EPOLL_CTL_ADD, 3, &moved);
    dup2(3, 5);
    close(3);
  });
  Written written({child.pid()});
  Again again(written.checkpoint);
  check_same(child, again, 0);
  auto watches = again.restorer.watches(written.checkpoint.tasks[0]);
  REQUIRE(watches.size() == 2);
  std::sort(watches.begin(), watches.end(), [](auto& a, auto& b) { return a.fd < b.fd; });
  CHECK(watches[0].epoll == 0);
  CHECK(watches[0].fd == 1);
  CHECK(watches[0].events == (EPOLLIN | EPOLLET | EPOLLERR | EPOLLHUP));
  CHECK(watches[0].data == 0x123456789abcdef0);
  CHECK(watches[1].fd == 5);
  CHECK(watches[1].data == 7);
}

TEST_CASE("pairs of unix sockets come back with what waits in them") {
  if (!may_examine()) return;
  Child child([] {
    int fds[2];
    (void)!socketpair(AF_UNIX, SOCK_STREAM, 0, fds);                     // 0, 1
    (void)!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, fds);  // 2, 3
    (void)!socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, fds);       // 4, 5
    (void)!socketpair(AF_UNIX, SOCK_STREAM, 0, fds);                     // 6, 7
    socket(AF_UNIX, SOCK_STREAM, 0);                                     // 8
    (void)!socketpair(AF_UNIX, SOCK_STREAM, 0, fds);                     // 9, 10
    int size = 50000;
    setsockopt(0, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    for (const char* text : {"one", "three"})
      for (int fd : {1, 3, 5}) (void)!write(fd, text, strlen(text));
    (void)!write(0, "back", 4);
    (void)!write(7, "last words", 10);
    close(7);
    shutdown(9, SHUT_WR);
  });
  Written written({child.pid()});
  Again again(written.checkpoint);
  for (int number : {0, 1, 2, 3, 4, 5, 6, 8}) check_same(child, again, number);
  CHECK(read_some(again[0]) == "onethree");
  CHECK(read_some(again[1]) == "back");
  CHECK(read_some(again[2]) == "one");
  CHECK(read_some(again[2]) == "three");
  CHECK(read_some(again[4]) == "one");
  CHECK(read_some(again[4]) == "three");
  CHECK(read_some(again[6]) == "last words");
  CHECK(read_some(again[6]).empty());
  CHECK(read_some(again[10]).empty());
  REQUIRE(write(again[10], "yes", 3) == 3);
  CHECK(read_some(again[9]) == "yes");
  int size = 0;
  socklen_t length = sizeof size;
  REQUIRE(getsockopt(again[0], SOL_SOCKET, SO_SNDBUF, &size, &length) == 0);
  CHECK(size == 100000);
  UniqueFd theirs = kernel::pidfd_getfd(kernel::pidfd_open(child.pid()).get(), 4);
  CHECK(read_some(theirs.get()) == "one");  // nothing was taken out
}

TEST_CASE("unix sockets that others can reach are refused") {
  if (!may_examine()) return;
  int outside[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, outside) == 0);
  REQUIRE(dup2(outside[1], 1010) == 1010);
  {
    Child child([] { dup2(1010, 0); });
    CHECK_THROWS_WITH(Written({child.pid()}), Catch::Contains("outside of the container"));
  }
  for (int fd : {outside[0], outside[1], 1010}) close(fd);
  Child child([] {
    sockaddr_un address{AF_UNIX, {}};
    memcpy(address.sun_path + 1, "files_test", 10);
    socket(AF_UNIX, SOCK_STREAM, 0);
    bind(0, reinterpret_cast<sockaddr*>(&address), sizeof(sa_family_t) + 11);
    socket(AF_UNIX, SOCK_STREAM, 0);
    bind(1, reinterpret_cast<sockaddr*>(&address), sizeof(sa_family_t));
    listen(1, 1);
  });
  DumpPlan plan;
  plan.root = child.pid();
  auto findings = files::obstacles(child.pid(), plan);
  REQUIRE(findings.size() == 2);
  CHECK(findings[0].what ==
        "holds a unix socket open as descriptor 0, bound to the name @files_test");
  CHECK(findings[1].what ==
        "holds a unix socket open as descriptor 1, that listens for connections");
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

TEST_CASE("the owner of a pipe's signals is written down and restored") {
  if (!may_examine()) return;
  Child child([] {
    int fds[2];
    (void)!pipe(fds);
    fcntl(0, F_SETOWN, getpid());
    fcntl(0, F_SETSIG, SIGUSR1);
    fcntl(0, F_SETFL, O_ASYNC);
  });
  Written written({child.pid()});
  signal(SIGUSR1, SIG_IGN);
  ScopeExit back([] { signal(SIGUSR1, SIG_DFL); });
  Again again(written.checkpoint);
  again.restorer.set_owners({{child.pid(), getpid()}});
  CHECK(fcntl(again[0], F_GETOWN) == getpid());
  CHECK(fcntl(again[0], F_GETSIG) == SIGUSR1);
  CHECK((fcntl(again[0], F_GETFL) & O_ASYNC) != 0);
}

TEST_CASE("what cannot be written down is named before anything is touched") {
  if (!may_examine()) return;
  Child child([] {
    socket(AF_INET, SOCK_STREAM, 0);       // 0
    memfd_create("cache", 0);              // 1
    open("/dev/null", O_RDWR);             // 2
    posix_openpt(O_RDWR | O_NOCTTY);       // 3
    syscall(SYS_pidfd_open, getpid(), 0);  // 4
    sockaddr address{};
    address.sa_family = AF_INET;
    bind(0, &address, sizeof address);
    listen(0, 1);
  });
  DumpPlan plan;
  plan.root = child.pid();
  plan.mounts = mountmap::MountTable::read(child.pid());
  auto findings = files::obstacles(child.pid(), plan);
  REQUIRE(findings.size() == 4);
  CHECK(findings[0].subject.starts_with(fmt::format("process {} (", child.pid())));
  CHECK(findings[0].what == "holds a TCP socket open as descriptor 0");
  CHECK(findings[1].what.starts_with("holds an anonymous memory file"));
  CHECK(findings[2].what.starts_with("holds the terminal"));
  for (const Finding& finding : findings) CHECK(!finding.remedy.empty());
  CHECK_THROWS_WITH(Written({child.pid()}), Catch::Contains("a TCP socket"));
}
