// Processes asleep in different system calls: each must go on sleeping after
// a checkpoint, and wake for the right reason with the right result. (The
// kernel keeps a relative timeout where nobody can read it, so nanosleep and
// poll may say EINTR after a restore, as they may at any time.)
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <atomic>

#include "program.h"

using namespace program;

namespace {

struct Sleeper {
  std::atomic<int> state{0};  // 1 asleep, 2 woke rightly, 3 woke wrongly
  std::atomic<int> result{0}, error{0};
};
Sleeper* sleepers;
int count = 0;
int pipes[16][2];
pid_t pids[16];

// The child sleeps in `call`; `right` judges what it returned.
int put_to_sleep(const std::function<long(int)>& call, const std::function<bool(long)>& right) {
  int index = count++;
  need(pipe(pipes[index]) == 0, "pipe");
  pids[index] = fork();
  need(pids[index] >= 0, "fork");
  if (pids[index] == 0) {
    sleepers[index].state = 1;
    long result = call(pipes[index][0]);
    sleepers[index].error = errno;
    sleepers[index].result = static_cast<int>(result);
    sleepers[index].state = right(result) ? 2 : 3;
    for (;;) pause();
  }
  return index;
}

void handler(int) {}

}  // namespace

int main() {
  sleepers = static_cast<Sleeper*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  signal(SIGUSR1, handler);
  int reads = put_to_sleep(
      [](int fd) {
        char byte;
        return read(fd, &byte, 1);
      },
      [](long r) { return r == 1; });
  int polls = put_to_sleep(
      [](int fd) {
        pollfd one = {fd, POLLIN, 0};
        int r = 0;
        while ((r = poll(&one, 1, 3600000)) == -1 && errno == EINTR) {
        }
        return r;
      },
      [](long r) { return r == 1; });
  int pauses =
      put_to_sleep([](int) { return pause(); }, [](long r) { return r == -1 && errno == EINTR; });
  put_to_sleep(  // naps, and naps to a point in time
      [](int) {
        uint64_t start = now_us();
        sleep_us(2000000);
        return now_us() - start >= 1990000 ? 0l : -1l;
      },
      [](long r) { return r == 0; });
  put_to_sleep(
      [](int) {
        timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        t.tv_sec += 2;
        return static_cast<long>(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, nullptr));
      },
      [](long r) { return r == 0; });
  int suspends = put_to_sleep(
      [](int) {
        sigset_t none;
        sigemptyset(&none);
        return sigsuspend(&none);
      },
      [](long r) { return r == -1 && errno == EINTR; });
  int waits = put_to_sleep(
      [](int fd) {
        if (fork() == 0) {
          char byte;
          _exit(read(fd, &byte, 1) == 1 ? 7 : 8);
        }
        int status = 0;
        wait(&status);
        return static_cast<long>(WEXITSTATUS(status));
      },
      [](long r) { return r == 7; });
  sleep_us(100000);
  serve([&](Verdict& verdict) {
    if (sleepers[reads].state == 1) {  // the first question
      for (int i : {reads, polls, pauses, suspends, waits})
        verdict.expect(sleepers[i].state == 1, "sleeper %d woke by itself: %d, errno %d", i,
                       sleepers[i].result.load(), sleepers[i].error.load());
      for (int i : {reads, polls, waits}) (void)!write(pipes[i][1], "x", 1);
      for (int i : {pauses, suspends}) kill(pids[i], SIGUSR1);
    }
    for (int i = 0; i < count; i++) {
      for (int wait = 0; wait < 1000 && sleepers[i].state == 1; wait++) sleep_us(5000);
      verdict.expect(sleepers[i].state == 2, "sleeper %d: state %d, result %d, errno %d", i,
                     sleepers[i].state.load(), sleepers[i].result.load(), sleepers[i].error.load());
    }
  });
}
