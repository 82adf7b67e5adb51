// Pipes, named and not, and who gets their signals.
#include <linux/kcmp.h>
#include <sys/syscall.h>

#include "base/scope_exit.h"
#include "engine/files/test_support.h"

namespace stasis::engine::files {

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

}  // namespace stasis::engine::files
