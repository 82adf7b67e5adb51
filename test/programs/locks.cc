// File locks: POSIX ones of two processes on one file, flock() and those of an
// open file, shared with a child; leases, also such that are being broken.
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>

#include "program.h"

using namespace program;

namespace {

volatile sig_atomic_t breaks = 0;

int make(const char* path, int flags) {
  int fd = open(path, flags | O_CREAT | O_CLOEXEC, 0600);
  need(fd >= 0, path);
  return fd;
}

struct flock range(short type, off_t start, off_t length) {
  struct flock lock{};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = start;
  lock.l_len = length;
  return lock;
}

void lock(int fd, int command, short type, off_t start, off_t length) {
  struct flock wanted = range(type, start, length);
  need(fcntl(fd, command, &wanted) == 0, "lock");
}

// What keeps a new process from having that range, as far as it is told.
struct flock met(const char* path, int command, short type, off_t start, off_t length) {
  int answer[2];
  struct flock found = range(F_UNLCK, -1, -1);
  if (pipe(answer) != 0) return found;
  pid_t child = fork();
  if (child == 0) {
    int fd = open(path, O_RDWR);
    struct flock wanted = range(type, start, length);
    fcntl(fd, command, &wanted);
    (void)!write(answer[1], &wanted, sizeof wanted);
    _exit(0);
  }
  close(answer[1]);
  (void)!read(answer[0], &found, sizeof found);
  close(answer[0]);
  while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) continue;
  return found;
}

void expect_lock(Verdict& verdict, const struct flock& found, short type, off_t start, off_t length,
                 pid_t pid) {
  verdict.expect(
      found.l_type == type && found.l_start == start && found.l_len == length && found.l_pid == pid,
      "a lock of type %d, %ld+%ld of process %d is type %d, %ld+%ld of %d", type, start, length,
      pid, found.l_type, found.l_start, found.l_len, found.l_pid);
}

// The result of a call on a newly opened file.
int tried(const char* path, int operation) {
  int fd = open(path, O_RDWR | O_CLOEXEC);
  int error = flock(fd, operation | LOCK_NB) == 0 ? 0 : errno;
  close(fd);
  return error;
}

int break_it(const char* path, int flags) {
  int fd = open(path, flags | O_NONBLOCK | O_CLOEXEC);
  int error = fd < 0 ? errno : 0;
  if (fd >= 0) close(fd);
  return error;
}

void lease(int fd, int type) { need(fcntl(fd, F_SETLEASE, type) == 0, "F_SETLEASE"); }

}  // namespace

int main() {
  signal(SIGIO, [](int) { breaks = breaks + 1; });
  int posix = make("/data/posix", O_RDWR);
  int again = make("/data/posix", O_RDWR);
  lock(posix, F_SETLK, F_RDLCK, 0, 10);
  lock(posix, F_SETLK, F_WRLCK, 100, 0);
  lock(again, F_SETLK, F_WRLCK, 40, 2);
  dup(posix);

  int exclusive = make("/data/exclusive", O_RDONLY), shared = make("/data/shared", O_RDWR);
  need(flock(exclusive, LOCK_EX) == 0 && flock(shared, LOCK_SH) == 0, "flock");
  int ofd = make("/data/ofd", O_RDWR);
  lock(ofd, F_OFD_SETLK, F_WRLCK, 5, 5);

  make("/data/read-lease", O_RDWR);
  make("/data/read-broken", O_RDWR);
  close(ofd + 1);
  close(ofd + 2);
  int read_lease = make("/data/read-lease", O_RDONLY);
  int write_lease = make("/data/write-lease", O_RDWR);
  int read_broken = make("/data/read-broken", O_RDONLY);
  int write_broken = make("/data/write-broken", O_RDWR);
  int downgraded = make("/data/downgraded", O_WRONLY);
  lease(read_lease, F_RDLCK);
  lease(write_lease, F_WRLCK);
  lease(read_broken, F_RDLCK);
  lease(write_broken, F_WRLCK);
  lease(downgraded, F_WRLCK);
  need(break_it("/data/read-broken", O_WRONLY) == EWOULDBLOCK, "breaking a lease");
  need(break_it("/data/write-broken", O_WRONLY) == EWOULDBLOCK, "breaking a lease");
  need(break_it("/data/downgraded", O_RDONLY) == EWOULDBLOCK, "breaking a lease");
  need(breaks == 3, "three leases were broken");

  pid_t child = fork();
  need(child >= 0, "fork");
  if (child == 0) {
    lock(posix, F_SETLK, F_WRLCK, 20, 10);
    close(exclusive);
    for (;;) pause();
  }
  for (int i = 0; i < 2000 && met("/data/posix", F_GETLK, F_RDLCK, 20, 1).l_pid != child; i++)
    sleep_us(1000);
  serve([&](Verdict& verdict) {
    const char* path = "/data/posix";
    expect_lock(verdict, met(path, F_GETLK, F_WRLCK, 0, 15), F_RDLCK, 0, 10, getpid());
    expect_lock(verdict, met(path, F_GETLK, F_RDLCK, 0, 10), F_UNLCK, 0, 10, 0);
    expect_lock(verdict, met(path, F_GETLK, F_RDLCK, 15, 10), F_WRLCK, 20, 10, child);
    expect_lock(verdict, met(path, F_GETLK, F_RDLCK, 41, 10), F_WRLCK, 40, 2, getpid());
    expect_lock(verdict, met(path, F_GETLK, F_RDLCK, 1 << 20, 1), F_WRLCK, 100, 0, getpid());
    expect_lock(verdict, met("/data/ofd", F_OFD_GETLK, F_RDLCK, 0, 0), F_WRLCK, 5, 5, -1);
    verdict.expect(tried("/data/exclusive", LOCK_SH) == EWOULDBLOCK, "flock: not exclusive");
    verdict.expect(tried("/data/shared", LOCK_EX) == EWOULDBLOCK, "flock: not locked");
    verdict.expect(tried("/data/shared", LOCK_SH) == 0, "flock: not shared");
    struct {
      const char* name;
      int fd, type;
    } leases[] = {{"read", read_lease, F_RDLCK},
                  {"write", write_lease, F_WRLCK},
                  {"broken read", read_broken, F_UNLCK},
                  {"broken write", write_broken, F_UNLCK},
                  {"downgraded", downgraded, F_RDLCK}};
    for (auto& held : leases) {
      int type = fcntl(held.fd, F_GETLEASE);
      verdict.expect(type == held.type, "%s lease: type %d, was %d", held.name, type, held.type);
    }
    verdict.expect(break_it("/data/read-broken", O_WRONLY) == EWOULDBLOCK, "no lease any more");
    verdict.expect(break_it("/data/write-broken", O_RDONLY) == EWOULDBLOCK, "no lease any more");
    verdict.expect(break_it("/data/downgraded", O_RDONLY) == EWOULDBLOCK, "no lease any more");
    verdict.expect(breaks == 3, "signals of %d leases that were broken", int{breaks});
  });
}
