// trees SEED: at every question changes its mounts at random - tmpfs, binds,
// overmounts, moves, propagation, flags - in several mount namespaces, its own
// and those of children that it makes and ends. What comes of it is the test's
// to see.
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include <random>
#include <vector>

#include "program.h"

using namespace program;

namespace {

constexpr size_t most_mounts = 90, most_children = 3;
constexpr int changes_a_round = 10;

using Random = std::mt19937;

size_t pick(Random& random, size_t count) { return random() % count; }

std::vector<std::string> mountpoints() {
  std::vector<std::string> points{"/tmp"};
  std::string text = read_file("/proc/self/mountinfo");
  for (size_t line = 0; line < text.size(); line = text.find('\n', line) + 1) {
    size_t at = line;
    for (int field = 0; field < 4; ++field) at = text.find(' ', at) + 1;
    std::string point = text.substr(at, text.find(' ', at) - at);
    if (point.starts_with("/tmp/")) points.push_back(point);
  }
  return points;
}

// A directory at or below some mountpoint; it is made if it isn't there.
std::string directory(Random& random) {
  auto points = mountpoints();
  std::string path = points[pick(random, points.size())];
  static const char* const below[] = {"", "/a", "/b", "/a/c", "/a/b"};
  const std::string rest = below[pick(random, 5)];
  if (rest.size() > 2) mkdir((path + rest.substr(0, 2)).c_str(), 0755);
  path += rest;
  mkdir(path.c_str(), 0755);
  return path;
}

void new_tmpfs(Random& random, const std::string& at) {
  std::string options = "size=" + std::to_string(16 + 4 * pick(random, 8)) + "k";
  if (mount("random", at.c_str(), "tmpfs", MS_NOSUID, options.c_str()) != 0) return;
  std::string text = at + std::to_string(random());
  int fd = open((at + "/f").c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0 || write(fd, text.data(), text.size()) < 0) return;
  close(fd);
  for (const char* name : {"/a", "/b"}) mkdir((at + name).c_str(), 0711);
}

void bind_directory(Random& random, const std::string& at) {
  static const char* const sources[] = {"/bin", "/data", "/tmp", "/dev/shm"};
  std::string source = pick(random, 3) ? directory(random) : sources[pick(random, 4)];
  unsigned long recursive = mountpoints().size() < 20 && pick(random, 3) == 0 ? MS_REC : 0;
  mount(source.c_str(), at.c_str(), nullptr, MS_BIND | recursive, nullptr);
}

void bind_file(Random& random, const std::string& at) {
  std::string place = at + "/f", source = directory(random) + "/f";
  mount(pick(random, 2) ? "/etc/hosts" : source.c_str(), place.c_str(), nullptr, MS_BIND, nullptr);
}

void change(Random& random) {
  constexpr unsigned long propagation[] = {MS_SHARED, MS_PRIVATE, MS_SLAVE, MS_UNBINDABLE};
  constexpr unsigned long flags[] = {MS_RDONLY, MS_NOEXEC, MS_NODEV | MS_NOSUID, MS_NOATIME, 0};
  std::string at = directory(random);
  auto points = mountpoints();
  const std::string& mounted = points[pick(random, points.size())];
  if (points.size() > most_mounts) {
    umount2(mounted.c_str(), MNT_DETACH);
    return;
  }
  switch (pick(random, 10)) {
    case 0:
    case 1:
      return new_tmpfs(random, at);
    case 2:
    case 3:
      return bind_directory(random, at);
    case 4:
      return bind_file(random, at);
    case 5:
    case 6:
      mount(nullptr, mounted.c_str(), nullptr,
            propagation[pick(random, 4)] | (pick(random, 4) ? 0 : MS_REC), nullptr);
      return;
    case 7:
      mount(nullptr, mounted.c_str(), nullptr, MS_REMOUNT | MS_BIND | flags[pick(random, 5)],
            nullptr);
      return;
    case 8:
      mount(mounted.c_str(), at.c_str(), nullptr, MS_MOVE, nullptr);
      return;
    case 9:
      umount2(mounted.c_str(), pick(random, 2) ? MNT_DETACH : 0);
      return;
  }
}

struct Child {
  pid_t pid;
  int ask, answer;
};

// In a mount namespace of its own; changes it when told to, with the seed that it is told.
Child make_child() {
  int ask[2], answer[2];
  need(pipe(ask) == 0 && pipe(answer) == 0, "pipe");
  pid_t pid = fork();
  need(pid >= 0, "fork");
  if (pid == 0) {
    need(unshare(CLONE_NEWNS) == 0 && write(answer[1], "", 1) == 1, "unshare");
    for (uint32_t seed; read(ask[0], &seed, sizeof seed) == sizeof seed;) {
      Random random(seed);
      change(random);
      if (write(answer[1], "", 1) != 1) break;
    }
    _exit(0);
  }
  close(ask[0]);
  close(answer[1]);
  char ready;  // who looks at the mounts next must find its namespace
  need(read(answer[0], &ready, 1) == 1, "the child");
  return {pid, ask[1], answer[0]};
}

void end_child(const Child& child) {
  kill(child.pid, SIGKILL);
  waitpid(child.pid, nullptr, 0);
  close(child.ask);
  close(child.answer);
}

}  // namespace

int main(int argc, char** argv) {
  Random random(argc > 1 ? static_cast<uint32_t>(atoi(argv[1])) : 1);
  std::vector<Child> children;
  // What a child holds of older ones' pipes doesn't matter: ends are told by signal.
  serve([&](Verdict& verdict) {
    for (int i = 0; i < changes_a_round; ++i) {
      size_t who = pick(random, children.size() + 2);
      if (who == children.size() + 1) {
        if (children.size() == most_children) {
          size_t which = pick(random, children.size());
          end_child(children[which]);
          children.erase(children.begin() + static_cast<long>(which));
        }
        children.push_back(make_child());
      } else if (who == children.size()) {
        change(random);
      } else {
        auto seed = static_cast<uint32_t>(random());
        char done;
        verdict.expect(write(children[who].ask, &seed, sizeof seed) == sizeof seed &&
                           read(children[who].answer, &done, 1) == 1,
                       "child %zu doesn't answer", who);
      }
    }
  });
}
