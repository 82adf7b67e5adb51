// Processes whose session or group has outlived its leader, or whose parent has
// ended: each answers with who it is.
#include <sys/wait.h>

#include "members.h"

using namespace program;

namespace {

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

void reap(pid_t pid) { need(waitpid(pid, nullptr, 0) == pid, "waitpid"); }

}  // namespace

int main() {
  members = share_members(member_count);
  // Two of a session whose leader has ended, one of them with a child.
  reap(spawn([] {
    setsid();
    spawn([] {
      spawn([] { live(members[1]); });
      live(members[0]);
    });
    spawn([] {
      setpgid(0, 0);
      live(members[2]);
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
  pid_t joined = spawn([] { live(members[3]); });
  need(setpgid(joined, first) == 0, "setpgid");
  need(write(ready[1], "x", 1) == 1, "write");
  reap(first);
  close(ready[0]);
  close(ready[1]);
  // One of a living session, whose parent has ended.
  spawn([] {
    setsid();
    reap(spawn([] { spawn([] { live(members[4]); }); }));
    for (;;) pause();
  });
  Identity was[member_count];
  sleep_us(200000);
  for (int i = 0; i < member_count; i++) was[i] = members[i].identity();
  need(was[0].parent == getpid() && was[4].parent == getpid() && was[3].group == first, "tree");
  serve([&](Verdict& verdict) {
    uint64_t ticks[member_count];
    for (int i = 0; i < member_count; i++) ticks[i] = members[i].ticks;
    sleep_us(300000);
    for (int i = 0; i < member_count; i++) {
      Member& m = members[i];
      verdict.expect(m.ticks > ticks[i] + 1, "member %d stands still", i);
      verdict.expect(m.identity() == was[i], "member %d is %d of %d, session %d, group %d", i,
                     m.pid.load(), m.parent.load(), m.session.load(), m.group.load());
    }
    verdict.expect(waitpid(-1, nullptr, WNOHANG) == 0, "a child has ended");
  });
}
