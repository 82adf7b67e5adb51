// Processes whose session or group has outlived its leader, or whose parent has
// ended: each answers with who it is.
#include <sys/mman.h>
#include <sys/wait.h>

#include <atomic>

#include "program.h"

using namespace program;

namespace {

struct Member {
  std::atomic<int> pid{0}, parent{0}, session{0}, group{0};
  std::atomic<uint64_t> ticks{0};
};
constexpr int member_count = 5;
Member* members;

template <typename First>
pid_t spawn(First first) {
  pid_t pid = fork();
  need(pid >= 0, "fork");
  if (pid == 0) {
    first();
    _exit(0);
  }
  return pid;
}

void live(int index) {
  Member& me = members[index];
  for (;; me.ticks++) {
    me.pid = getpid();
    me.parent = getppid();
    me.session = getsid(0);
    me.group = getpgrp();
    sleep_us(3000);
  }
}

void reap(pid_t pid) { need(waitpid(pid, nullptr, 0) == pid, "waitpid"); }

}  // namespace

int main() {
  members = static_cast<Member*>(mmap(nullptr, sizeof(Member) * member_count,
                                      PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  // Two of a session whose leader has ended, one of them with a child.
  reap(spawn([] {
    setsid();
    spawn([] {
      spawn([] { live(1); });
      live(0);
    });
    spawn([] {
      setpgid(0, 0);
      live(2);
    });
  }));
  // One in a group whose leader has ended.
  pid_t first = 0;
  int ready[2];
  need(pipe(ready) == 0, "pipe");
  first = spawn([&] {
    setpgid(0, 0);
    char byte;
    (void)!read(ready[0], &byte, 1);
  });
  while (getpgid(first) != first) sleep_us(1000);
  pid_t joined = spawn([] { live(3); });
  need(setpgid(joined, first) == 0, "setpgid");
  need(write(ready[1], "x", 1) == 1, "write");
  reap(first);
  close(ready[0]);
  close(ready[1]);
  // One of a living session, whose parent has ended.
  spawn([] {
    setsid();
    reap(spawn([] { spawn([] { live(4); }); }));
    for (;;) pause();
  });
  struct {
    int pid, parent, session, group;
  } was[member_count];
  sleep_us(200000);
  for (int i = 0; i < member_count; i++)
    was[i] = {members[i].pid, members[i].parent, members[i].session, members[i].group};
  need(was[0].parent == getpid() && was[4].parent == getpid() && was[3].group == first, "tree");
  serve([&](Verdict& verdict) {
    uint64_t ticks[member_count];
    for (int i = 0; i < member_count; i++) ticks[i] = members[i].ticks;
    sleep_us(300000);
    for (int i = 0; i < member_count; i++) {
      Member& m = members[i];
      verdict.expect(m.ticks > ticks[i] + 1, "member %d stands still", i);
      verdict.expect(m.pid == was[i].pid && m.parent == was[i].parent &&
                         m.session == was[i].session && m.group == was[i].group,
                     "member %d is %d of %d, session %d, group %d", i, m.pid.load(),
                     m.parent.load(), m.session.load(), m.group.load());
    }
    verdict.expect(waitpid(-1, nullptr, WNOHANG) == 0, "a child has ended");
  });
}
