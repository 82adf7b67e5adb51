// Seccomp as programs rely on it: filters that threads share, so that one more
// reaches all of them, and a child in strict mode.
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <atomic>
#include <thread>

#include "forbid.h"
#include "program.h"

using namespace program;

int main() {
  int question[2], answer[2];
  need(pipe(question) == 0 && pipe(answer) == 0, "pipe");
  pid_t strict = fork();
  need(strict >= 0, "fork");
  if (strict == 0) {
    need(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0, "strict mode");
    for (char byte; read(question[0], &byte, 1) == 1;)
      if (write(answer[1], &byte, 1) != 1) break;
    syscall(SYS_exit, 0);
  }
  need(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
  need(forbid(SYS_uname, 71) == 0, "seccomp");
  std::atomic<unsigned> asked{0}, seen{0};
  std::thread other([&] {
    for (;; sleep_us(1000)) {
      if (asked == seen) continue;
      errno = 0;
      bool refused = syscall(SYS_getpriority, 0, 0) == -1 && errno == static_cast<int>(asked);
      seen = refused ? asked.load() : 0;
    }
  });
  other.detach();
  unsigned error = 100;
  serve([&](Verdict& verdict) {
    // The newest filter's answer counts: each one's error is another.
    ++error;
    verdict.expect(forbid(SYS_getpriority, error, SECCOMP_FILTER_FLAG_TSYNC) == 0,
                   "the threads do not share their filters");
    asked = error;
    for (int i = 0; i < 400 && seen != error; i++) sleep_us(5000);
    verdict.expect(seen == error, "the filter is not on the thread");
    char byte = 'x';
    verdict.expect(write(question[1], &byte, 1) == 1 && read(answer[0], &byte, 1) == 1,
                   "the strict child is gone");
    verdict.expect(
        read_file(("/proc/" + std::to_string(strict) + "/status").c_str()).find("Seccomp:\t1") !=
            std::string::npos,
        "the child is no longer strict");
  });
}
