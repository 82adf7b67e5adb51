#include "engine/namespaces/userns.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "base/scope_exit.h"
#include "kernel/fs.h"

using namespace stasis;
using namespace stasis::engine;
using Catch::Contains;

namespace {

// A process in a user namespace of its own with these maps; ended by the guard.
struct Sleeper {
  pid_t pid;
  explicit Sleeper(const image::UsernsEntry& maps) {
    int made[2], mapped[2];
    REQUIRE(pipe(made) == 0);
    REQUIRE(pipe(mapped) == 0);
    pid = fork();
    char byte = 0;
    if (pid == 0) {
      close(mapped[1]);
      if (unshare(CLONE_NEWUSER | CLONE_NEWIPC) != 0) _exit(1);
      (void)!write(made[1], "m", 1);
      (void)!read(mapped[0], &byte, 1);
      try {
        userns::become_root();
      } catch (const Error&) {
        _exit(2);
      }
      (void)!write(made[1], "r", 1);
      for (;;) pause();
    }
    close(made[1]);
    close(mapped[0]);
    REQUIRE(read(made[0], &byte, 1) == 1);
    userns::write_maps(maps, pid);
    REQUIRE(write(mapped[1], "w", 1) == 1);
    REQUIRE(read(made[0], &byte, 1) == 1);
    close(made[0]);
    close(mapped[1]);
  }
  ~Sleeper() {
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }
};

image::UsernsEntry maps_of(const char* uids, const char* gids) {
  image::UsernsEntry maps;
  *maps.mutable_uid_map() = userns::parse_map(uids);
  *maps.mutable_gid_map() = userns::parse_map(gids);
  return maps;
}

}  // namespace

TEST_CASE("id maps are read and written as the kernel has them") {
  auto map =
      userns::parse_map("         0     100000      65536\n     70000          0          1\n");
  REQUIRE(map.size() == 2);
  CHECK(map[1].first() == 70000);
  CHECK(map[1].lower_first() == 0);
  CHECK(userns::to_text(map) == "0 100000 65536\n70000 0 1\n");
  CHECK(userns::parse_map("").empty());
  for (const char* bad : {"0 1", "0 1 2 3", "a 1 2", "0 1 4294967296"})
    CHECK_THROWS_WITH(userns::parse_map(bad), Contains("unexpected line"));
}

TEST_CASE("ids are translated both ways, and those that nobody has are told") {
  userns::IdMap same;
  CHECK(same.uid_inside(1234, "x") == 1234);
  CHECK(same.gid_outside(1234, "x") == 1234);
  userns::IdMap ids(maps_of("0 100000 1000\n1000 5000 1\n", "0 200000 10\n"));
  CHECK(ids.uid_inside(100999, "x") == 999);
  CHECK(ids.uid_inside(5000, "x") == 1000);
  CHECK(ids.uid_outside(1000, "x") == 5000);
  CHECK(ids.gid_inside(200009, "x") == 9);
  CHECK(ids.gid_outside(9, "x") == 200009);
  CHECK(ids.uid_inside(~0U, "x") == ~0U);
  CHECK_FALSE(ids.find_uid_inside(0));
  CHECK_FALSE(ids.find_uid_inside(101000));
  CHECK_FALSE(ids.find_gid_inside(200010));
  CHECK_THROWS_WITH(ids.uid_inside(0, "the file /a"), Contains("/a") && Contains("uid 0"));
  CHECK_THROWS_WITH(ids.gid_outside(10, "the file /a"), Contains("gid 10"));
  // An extent at the very end must not wrap around.
  userns::IdMap high(maps_of("0 4294967000 200\n", "0 0 1\n"));
  CHECK_FALSE(high.find_uid_inside(4294967200));
  CHECK(high.uid_inside(4294967199, "x") == 199);
}

TEST_CASE("maps without root are no use") {
  CHECK(userns::trouble_with(maps_of("0 1 1\n", "0 1 1\n")).empty());
  CHECK(userns::trouble_with(maps_of("1 1 1\n", "0 1 1\n")) == "maps no uid 0");
  CHECK(userns::trouble_with(maps_of("0 1 1\n", "")) == "maps no gid 0");
}

TEST_CASE("a user namespace gets its maps, and what it owns is known") {
  if (geteuid() != 0) return;
  auto maps = maps_of("0 100000 65536\n", "0 200000 65536\n");
  Sleeper sleeper(maps);
  auto ids = userns::IdMap::of(sleeper.pid);
  REQUIRE(ids.maps());
  CHECK(userns::to_text(ids.maps()->uid_map()) == "0 100000 65536\n");
  CHECK(userns::to_text(ids.maps()->gid_map()) == "0 200000 65536\n");
  CHECK_FALSE(userns::IdMap::of(getpid()).maps());
  std::string proc = "/proc/" + std::to_string(sleeper.pid) + "/ns/";
  struct stat user{};
  REQUIRE(stat((proc + "user").c_str(), &user) == 0);
  CHECK(userns::owner_of(proc + "ipc") == user.st_ino);
  CHECK(userns::owner_of(proc + "uts") != user.st_ino);
  struct stat owned{};
  REQUIRE(stat(("/proc/" + std::to_string(sleeper.pid)).c_str(), &owned) == 0);
  CHECK(owned.st_uid == 100000);
  CHECK(owned.st_gid == 200000);
}

TEST_CASE("a look from within a user namespace gives descriptors, answers and errors") {
  if (geteuid() != 0) return;
  Sleeper sleeper(maps_of("0 100000 65536\n", "0 200000 65536\n"));
  int opened = -1;
  std::string answer = userns::in_user_namespace(sleeper.pid, [&] {
    opened = kernel::open("/proc/self/uid_map", O_RDONLY).release();
    return std::to_string(opened);
  });
  CHECK(opened == -1);  // its memory is its own
  UniqueFd fd(std::stoi(answer));
  CHECK(fcntl(fd.get(), F_GETFD) >= 0);
  CHECK_THROWS_WITH(
      userns::in_user_namespace(
          sleeper.pid,
          []() -> std::string { throw Error("see", "it").with_errno(EPERM).because("a reason"); }),
      Contains("cannot see it: a reason"));
  CHECK_THROWS_WITH(userns::in_user_namespace(sleeper.pid,
                                              []() -> std::string {
                                                kill(getpid(), SIGKILL);
                                                return {};
                                              }),
                    Contains("was killed"));
}

TEST_CASE("what is created for a user namespace belongs to its root") {
  if (geteuid() != 0) return;
  int before[2], during[2], after[2];
  REQUIRE(pipe(before) == 0);
  {
    userns::CreateAsRoot as_root{userns::IdMap(maps_of("0 100000 1\n", "0 200000 1\n"))};
    REQUIRE(pipe(during) == 0);
    // Others' files stay open to us all the same.
    CHECK(access("/proc/1/environ", R_OK) == 0);
    UniqueFd shadow = kernel::open("/etc/shadow", O_RDONLY);
    CHECK(shadow.valid());
  }
  REQUIRE(pipe(after) == 0);
  auto owner = [](int* ends) {
    struct stat s{};
    REQUIRE(fstat(ends[0], &s) == 0);
    close(ends[0]);
    close(ends[1]);
    return std::pair(s.st_uid, s.st_gid);
  };
  CHECK(owner(before) == std::pair(uid_t{0}, gid_t{0}));
  CHECK(owner(during) == std::pair(uid_t{100000}, gid_t{200000}));
  CHECK(owner(after) == std::pair(uid_t{0}, gid_t{0}));
  CHECK(setfsuid(~0U) == 0);
}
