// A tree of processes in several sessions and groups, each in contact with the
// root over shared memory and answering with who it is.
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <atomic>

#include "program.h"

using namespace program;

namespace {

struct Member {
  std::atomic<int> pid{0}, parent{0}, session{0}, group{0};
  std::atomic<uint64_t> ticks{0};
  char name[16];
};
constexpr int member_count = 9;
Member* members;

void live(int index) {
  Member& me = members[index];
  for (;; me.ticks++) {
    me.pid = getpid();
    me.parent = getppid();
    me.session = getsid(0);
    me.group = getpgrp();
    prctl(PR_GET_NAME, me.name);
    sleep_us(3000);
  }
}

pid_t spawn(int index, const std::function<void()>& first) {
  pid_t pid = fork();
  need(pid >= 0, "fork");
  if (pid == 0) {
    first();
    std::string name = "member-" + std::to_string(index);
    prctl(PR_SET_NAME, name.c_str());
    live(index);
  }
  return pid;
}

}  // namespace

int main() {
  members = static_cast<Member*>(mmap(nullptr, sizeof(Member) * member_count,
                                      PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  spawn(0, [] {});
  spawn(1, [] { setpgid(0, 0); });
  spawn(2, [] {  // a session of its own with a job in another group
    setsid();
    spawn(3, [] {});
    spawn(4, [] { setpgid(0, 0); });
  });
  spawn(5, [] {  // a child born before the parent's setsid stays in the old session
    spawn(6, [] {});
    setsid();
    spawn(7, [] {});
  });
  pid_t leader = spawn(8, [] { setpgid(0, 0); });
  sleep_us(100000);
  struct {
    int pid, parent, session, group;
  } was[member_count];
  for (int i = 0; i < member_count; i++)
    was[i] = {members[i].pid, members[i].parent, members[i].session, members[i].group};
  need(was[8].pid == leader && was[6].session != was[7].session, "tree");
  bool reaped = false;  // the last member, by the first question
  serve([&](Verdict& verdict) {
    uint64_t ticks[member_count];
    for (int i = 0; i < member_count; i++) ticks[i] = members[i].ticks;
    sleep_us(300000);
    for (int i = 0; i < member_count; i++) {
      if (reaped && i == 8) continue;
      Member& m = members[i];
      verdict.expect(m.ticks > ticks[i] + 1, "member %d stands still", i);
      verdict.expect(m.pid == was[i].pid, "member %d has pid %d, had %d", i, m.pid.load(),
                     was[i].pid);
      verdict.expect(m.parent == was[i].parent, "member %d: parent %d, was %d", i, m.parent.load(),
                     was[i].parent);
      verdict.expect(m.session == was[i].session, "member %d: session %d, was %d", i,
                     m.session.load(), was[i].session);
      verdict.expect(m.group == was[i].group, "member %d: group %d, was %d", i, m.group.load(),
                     was[i].group);
      verdict.expect(m.name == "member-" + std::to_string(i), "member %d is called %s", i, m.name);
    }
    // The children are still ours to wait for.
    if (reaped) return;
    kill(leader, SIGKILL);
    int status = 0;
    verdict.expect(waitpid(leader, &status, 0) == leader, "waitpid");
    reaped = true;
  });
}
