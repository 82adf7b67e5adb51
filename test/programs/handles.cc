// Descriptors of files, processes and namespaces: inotify watches with their
// numbers, on files with and without a name; pidfds of living and dead
// processes; files of /proc/self/ns and of a dead process's /proc, and a working
// directory there.
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <vector>

#include "program.h"

using namespace program;

namespace {

int inotify = -1;
bool searched = false;  // by an engine that can't find a file at once: it opens directories

int watch(const char* path, uint32_t mask) {
  int wd = inotify_add_watch(inotify, path, mask);
  need(wd >= 0, path);
  return wd;
}

struct Event {
  int wd;
  uint32_t mask;
  std::string name;
};

std::vector<Event> events() {
  std::vector<Event> all;
  alignas(inotify_event) char buffer[8192];
  for (ssize_t size; (size = read(inotify, buffer, sizeof buffer)) > 0;)
    for (ssize_t at = 0; at < size;) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer + at);
      if (!searched || !(event->mask & IN_ISDIR))
        all.push_back({event->wd, event->mask, event->len ? event->name : ""});
      at += static_cast<ssize_t>(sizeof *event + event->len);
    }
  return all;
}

void touch(const char* path) {
  int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  need(fd >= 0, path);
  close(fd);
}

void expect_event(Verdict& verdict, const std::vector<Event>& found, size_t at, int wd,
                  uint32_t mask, const char* name) {
  if (!verdict.expect(found.size() > at, "only %zu events", found.size())) return;
  const Event& event = found[at];
  verdict.expect(event.wd == wd && event.mask == mask && event.name == name,
                 "event %zu is of watch %d, %x %s instead of %d, %x %s", at, event.wd, event.mask,
                 event.name.c_str(), wd, mask, name);
}

pid_t make_child(const std::string& directory = "/") {
  pid_t child = fork();
  need(child >= 0, "fork");
  if (child != 0) return child;
  need(chdir(directory.c_str()) == 0, "chdir");
  for (;;) pause();
}

std::string working_directory(pid_t pid) {
  char target[64];
  ssize_t size = readlink(("/proc/" + std::to_string(pid) + "/cwd").c_str(), target, sizeof target);
  return std::string(target, size < 0 ? 0 : static_cast<size_t>(size));
}

int pidfd(pid_t pid, unsigned flags = 0) {
  int fd = static_cast<int>(syscall(SYS_pidfd_open, pid, flags));
  need(fd >= 0, "pidfd_open");
  return fd;
}

bool alive(int fd) { return syscall(SYS_pidfd_send_signal, fd, 0, nullptr, 0) == 0; }

bool ended(int fd) {
  pollfd poll_fd{fd, POLLIN, 0};
  return poll(&poll_fd, 1, 0) == 1;
}

ino_t inode(int fd) {
  struct stat stat{};
  fstat(fd, &stat);
  return stat.st_ino;
}

}  // namespace

// handles [searched]
int main(int argc, char**) {
  searched = argc > 1;
  mkdir("/data/watched", 0700);
  mkdir("/tmp/watched", 0700);
  touch("/data/watched/file");
  inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  need(inotify >= 0, "inotify_init1");
  for (int i = 0; i < 5; i++) {
    touch("/data/passing");
    inotify_rm_watch(inotify, watch("/data/passing", IN_OPEN));
  }
  constexpr uint32_t closed = IN_CREATE | IN_CLOSE_WRITE | IN_OPEN | IN_CLOSE_NOWRITE | IN_ACCESS;
  int directory = watch("/data/watched", closed), tmp = watch("/tmp/watched", IN_CREATE);
  int root = watch("/", IN_CREATE | IN_EXCL_UNLINK);
  int file = watch("/data/watched/file", IN_ALL_EVENTS);
  int unlinked = open("/data/unlinked", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  int unlinked_watch = watch("/data/unlinked", IN_MODIFY);
  unlink("/data/unlinked");
  int cwd = watch(".", IN_DELETE_SELF);
  need(cwd == root, "the working directory is the root directory");
  watch("/", IN_CREATE | IN_EXCL_UNLINK);
  events();

  pid_t child = make_child(), brief = make_child();
  int self = pidfd(getpid()), of_child = pidfd(child, O_NONBLOCK);
  int dead = pidfd(brief), dead_too = pidfd(brief);
  std::string of_dead = "/proc/" + std::to_string(brief);
  int status = open((of_dead + "/status").c_str(), O_RDONLY | O_CLOEXEC);
  int dead_directory = open(of_dead.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  need(status >= 0 && dead_directory >= 0, "files of /proc");
  pid_t homeless = make_child(of_dead);
  while (working_directory(homeless) != of_dead) sleep_us(1000);
  pid_t lodger = make_child("/proc/" + std::to_string(child));
  while (working_directory(lodger) == "/") sleep_us(1000);
  int living = open(("/proc/" + std::to_string(child) + "/comm").c_str(), O_RDONLY | O_CLOEXEC);
  kill(brief, SIGKILL);
  waitpid(brief, nullptr, 0);
  events();
  int ns[] = {open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), open("/proc/self/ns/pid", O_RDONLY),
              open("/proc/self/ns/mnt", O_RDONLY)};
  const char* names[] = {"/proc/self/ns/net", "/proc/self/ns/pid", "/proc/self/ns/mnt"};

  serve([&](Verdict& verdict) {
    auto found = events();
    verdict.expect(found.empty(), "%zu events, the first of watch %d: %x", found.size(),
                   found.empty() ? 0 : found[0].wd, found.empty() ? 0 : found[0].mask);
    touch("/data/watched/file");
    found = events();
    expect_event(verdict, found, 0, directory, IN_OPEN, "file");
    expect_event(verdict, found, 1, file, IN_OPEN, "");
    expect_event(verdict, found, 2, directory, IN_CLOSE_WRITE, "file");
    expect_event(verdict, found, 3, file, IN_CLOSE_WRITE, "");
    verdict.expect(found.size() == 4, "%zu events instead of 4", found.size());
    touch("/tmp/watched/new");
    expect_event(verdict, events(), 0, tmp, IN_CREATE, "new");
    unlink("/tmp/watched/new");
    (void)!pwrite(unlinked, "x", 1, 0);
    expect_event(verdict, events(), 0, unlinked_watch, IN_MODIFY, "");
    int next = inotify_add_watch(inotify, "/data", IN_OPEN);
    verdict.expect(next > unlinked_watch, "the next watch is %d", next);
    inotify_rm_watch(inotify, next);
    events();

    verdict.expect(alive(self) && alive(of_child), "a pidfd is of no living process");
    verdict.expect(!ended(of_child), "the child's pidfd says that it has ended");
    verdict.expect(fcntl(of_child, F_GETFL) & O_NONBLOCK, "a pidfd's flags");
    verdict.expect(!alive(dead) && !alive(dead_too) && ended(dead), "a dead process lives");
    verdict.expect(inode(dead) == inode(dead_too), "two pidfds of one dead process differ");
    std::string info = read_file(("/proc/self/fdinfo/" + std::to_string(of_child)).c_str());
    verdict.expect(info.find("Pid:\t" + std::to_string(child) + "\n") != std::string::npos,
                   "not the child's pidfd: %s", info.c_str());
    char byte;
    verdict.expect(read(status, &byte, 1) < 0 && errno == ESRCH, "/proc of a dead process: read");
    verdict.expect(openat(dead_directory, "status", O_RDONLY) < 0, "/proc of a dead process: open");
    verdict.expect(working_directory(homeless) == of_dead + " (deleted)", "it is in %s",
                   working_directory(homeless).c_str());
    verdict.expect(working_directory(lodger) == "/proc/" + std::to_string(child), "it is in %s",
                   working_directory(lodger).c_str());
    verdict.expect(pread(living, &byte, 1, 0) == 1, "/proc of a living process: read");
    for (int i = 0; i < 3; i++) {
      struct stat stat{};
      ::stat(names[i], &stat);
      verdict.expect(inode(ns[i]) == stat.st_ino, "%s: another namespace", names[i]);
    }
  });
}
