// What the kernel tells only by inode, process or namespace: inotify, pidfds,
// files of /proc/PID/ns; other names of a file.
#include <dirent.h>
#include <sys/inotify.h>
#include <sys/syscall.h>

#include <algorithm>

#include "engine/files/dead_task.h"
#include "engine/files/names.h"
#include "engine/files/test_support.h"
#include "engine/files/watched.h"

namespace stasis::engine::files {

TEST_CASE("a line of an inotify watch") {
  WatchedInode watch(
      "wd:a ino:1c1d sdev:700003 mask:800afce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 "
      "f_handle:1d1c000020010203");
  CHECK(watch.number("wd") == 10);
  CHECK(watch.inode() == 0x1c1d);
  CHECK(watch.major() == 7);
  CHECK(watch.minor() == 3);
  image::FhEntry handle = watch.handle();
  CHECK(handle.bytes() == 8);
  CHECK(handle.type() == 1);
  CHECK(handle.handle(0) == 0x0302012000001c1d);
  CHECK(WatchedInode("wd:1 ino:5 sdev:7 mask:1").handle().bytes() == 0);
  for (const char* line : {"", "wd:1 ino:x sdev:7 mask:1", "wd:1 sdev:7 mask:1"})
    CHECK_THROWS_AS(WatchedInode(line), Error);
  CHECK_THROWS_AS(WatchedInode("wd:1 ino:5 sdev:7 mask:1 fhandle-bytes:8 f_handle:12").handle(),
                  Error);
}

TEST_CASE("inotify watches come back with their numbers") {
  if (!may_examine()) return;
  Scratch scratch;
  put(scratch / "file", "");
  std::filesystem::create_directory(scratch / "directory");
  Child child([&] {
    inotify_init1(IN_NONBLOCK);  // 0
    for (int i = 0; i < 3; i++) inotify_rm_watch(0, inotify_add_watch(0, "/proc", IN_OPEN));
    inotify_add_watch(0, (scratch / "directory").c_str(), IN_CREATE | IN_EXCL_UNLINK);
    inotify_add_watch(0, (scratch / "file").c_str(), IN_MODIFY | IN_ONESHOT);
    open((scratch / "gone").c_str(), O_RDWR | O_CREAT, 0600);  // 1
    inotify_add_watch(0, (scratch / "gone").c_str(), IN_MODIFY);
    unlink((scratch / "gone").c_str());
  });
  Written written({child.pid()});
  const auto& watches = written.checkpoint.files.at(1).ify();
  REQUIRE(watches.wd_size() == 3);
  Again again(written.checkpoint);
  UniqueFd inotify = kernel::pidfd_getfd(kernel::pidfd_open(getpid()).get(), again[0]);
  UniqueFd gone = kernel::pidfd_getfd(kernel::pidfd_open(getpid()).get(), again[1]);
  again.restorer.close_all();
  CHECK(read_some(inotify.get()) == "error");  // nothing to read yet
  put(scratch / "directory/new", "");
  put(scratch / "file", "x");
  REQUIRE(write(gone.get(), "x", 1) == 1);
  alignas(inotify_event) char buffer[4096];
  ssize_t size = read(inotify.get(), buffer, sizeof buffer);
  std::vector<int> seen;
  for (ssize_t at = 0; at < size;) {
    const auto* event = reinterpret_cast<const inotify_event*>(buffer + at);
    if (!(event->mask & IN_IGNORED)) seen.push_back(event->wd);
    at += static_cast<ssize_t>(sizeof *event + event->len);
  }
  seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
  CHECK(seen == std::vector<int>{4, 5, 6});
}

TEST_CASE("pidfds are of the same processes, living and dead") {
  if (!may_examine()) return;
  Child child([] {
    syscall(SYS_pidfd_open, getpid(), O_NONBLOCK);  // 0
    pid_t brief = fork();
    if (brief == 0)
      for (;;) pause();
    syscall(SYS_pidfd_open, brief, 0);  // 1
    syscall(SYS_pidfd_open, brief, 0);  // 2
    kill(brief, SIGKILL);
    waitpid(brief, nullptr, 0);
    open("/proc/self/ns/net", O_RDONLY);  // 3
  });
  Written written({child.pid()});
  written.checkpoint.tasks[0].tree.set_pid(static_cast<uint32_t>(child.pid()));
  uint32_t ns = written.checkpoint.tasks[0].fds[3].id();
  written.checkpoint.tasks[0].ids.set_net_ns_id(written.checkpoint.files.at(ns).nsf().ns_id());
  Again again(written.checkpoint);
  // The process that takes its place.
  again.restorer.later().set_pids({{child.pid(), getpid()}});
  CHECK(*info_of(again[0]).find("Pid") == std::to_string(getpid()));
  CHECK((info_of(again[0]).flags & O_NONBLOCK) != 0);
  for (int number : {1, 2}) CHECK(*info_of(again[number]).find("Pid") == "-1");
  CHECK(child.link(3) == kernel::read_link(fmt::format("/proc/self/fd/{}", again[3])));
}

TEST_CASE("a file that lost a name is opened by another one") {
  if (!may_examine()) return;
  Scratch scratch;
  std::filesystem::create_directory(scratch / "sub");
  Child child([&] {
    open((scratch / "one").c_str(), O_RDWR | O_CREAT, 0600);  // 0
    link((scratch / "one").c_str(), (scratch / "sub/two").c_str());
    unlink((scratch / "one").c_str());
  });
  Written written({child.pid()}, {}, [&](DumpPlan&) {});
  Again again(written.checkpoint);
  struct stat stat{};
  REQUIRE(fstat(again[0], &stat) == 0);
  CHECK(stat.st_nlink == 1);
  CHECK(kernel::read_link(fmt::format("/proc/self/fd/{}", again[0])) == scratch / "sub/two");
}

TEST_CASE("names are looked for beneath a directory") {
  Scratch scratch;
  std::filesystem::create_directories(scratch / "a/b");
  put(scratch / "a/b/c", "");
  UniqueFd top = kernel::open(scratch.path(), O_PATH | O_DIRECTORY);
  struct statx wanted = kernel::stat_fd(kernel::open(scratch / "a/b/c", O_PATH).get());
  Sought sought{wanted.stx_ino, false,
                [&](int fd) { return kernel::stat_fd(fd).stx_ino == wanted.stx_ino; }};
  CHECK(find_beneath(top.get(), sought) == "/a/b/c");
  sought.numbers_differ = true;
  CHECK(find_beneath(top.get(), sought) == "/a/b/c");
  sought.inode = 1;
  CHECK_FALSE(find_beneath(top.get(), sought));
}

TEST_CASE("whose file of /proc it is") {
  CHECK(process_of("/proc/6/mountinfo", "/proc") == 6);
  CHECK(process_of("/proc/6", "/proc") == 6);
  CHECK(process_of("/a/proc/77/task/77/stat", "/a/proc") == 77);
  for (const char* path : {"/proc/6/task/7/stat", "/proc/meminfo", "/proc", "/sys/6/x"})
    CHECK_FALSE(process_of(path, "/proc"));
}

}  // namespace stasis::engine::files
