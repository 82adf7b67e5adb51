// A tree of processes in several sessions and groups, each in contact with the
// root over shared memory and answering with who it is. tree COUNT: as many of
// them, the root included, some of them many generations below it.
#include <sys/prctl.h>
#include <sys/wait.h>

#include <algorithm>
#include <vector>

#include "members.h"

using namespace program;

namespace {

constexpr int special_members = 9;
int member_count = special_members;
Member* members;

pid_t spawn(int index, const std::function<void()>& first) {
  pid_t pid = fork();
  need(pid >= 0, "fork");
  if (pid == 0) {
    first();
    std::string name = "member-" + std::to_string(index);
    prctl(PR_SET_NAME, name.c_str());
    live(members[index], std::max(3000, 100 * member_count));  // however many: two processors
  }
  return pid;
}

// Members `first` up to `end`: every one has half of those that are left below it.
void grow(int first, int end) {
  while (first < end) {
    int below = first + 1 + (end - first) / 2;
    if (below > end) below = end;
    spawn(first, [first, below] {
      if (first % 3 == 0) setsid();
      grow(first + 1, below);
    });
    first = below;
  }
}

void wait_for_all() {
  for (int i = 0; i < member_count; i++)
    while (members[i].ticks < 2) sleep_us(1000);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) member_count = atoi(argv[1]) - 1;
  need(member_count >= special_members, "COUNT");
  members = share_members(member_count);
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
  grow(special_members, member_count);
  wait_for_all();
  std::vector<Identity> was;
  for (int i = 0; i < member_count; i++) was.push_back(members[i].identity());
  need(was[8].pid == leader && was[6].session != was[7].session, "tree");
  bool reaped = false;  // the last member, by the first question
  serve([&](Verdict& verdict) {
    std::vector<uint64_t> ticks;
    for (int i = 0; i < member_count; i++) ticks.push_back(members[i].ticks);
    auto moves = [&](size_t i) { return members[i].ticks > ticks[i] + 1; };
    for (size_t i = 0; i < was.size(); i++)
      for (int patience = 0; patience < 1000 && !moves(i) && !(reaped && i == 8); patience++)
        sleep_us(10000);
    for (size_t i = 0; i < was.size(); i++) {
      if (reaped && i == 8) continue;
      Member& m = members[i];
      verdict.expect(moves(i), "member %zu stands still", i);
      verdict.expect(m.pid == was[i].pid, "member %zu has pid %d, had %d", i, m.pid.load(),
                     was[i].pid);
      verdict.expect(m.parent == was[i].parent, "member %zu: parent %d, was %d", i, m.parent.load(),
                     was[i].parent);
      verdict.expect(m.session == was[i].session, "member %zu: session %d, was %d", i,
                     m.session.load(), was[i].session);
      verdict.expect(m.group == was[i].group, "member %zu: group %d, was %d", i, m.group.load(),
                     was[i].group);
      verdict.expect(m.name == "member-" + std::to_string(i), "member %zu is called %s", i, m.name);
    }
    // The children are still ours to wait for.
    if (reaped) return;
    kill(leader, SIGKILL);
    int status = 0;
    verdict.expect(waitpid(leader, &status, 0) == leader, "waitpid");
    reaped = true;
  });
}
