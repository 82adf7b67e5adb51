// Two processes and a pipe: the child counts into the pipe, the parent appends
// what it reads to a file outside. No number may be lost or come twice.
#include "program.h"

using namespace program;

int main() {
  int ends[2];
  need(pipe(ends) == 0, "pipe");
  pid_t child = fork();
  need(child >= 0, "fork");
  if (child == 0) {
    close(ends[0]);
    for (uint64_t n = 1;; n++) {
      if (write(ends[1], &n, sizeof n) != sizeof n) _exit(1);
      sleep_us(2000);
    }
  }
  close(ends[1]);
  int log = open("/data/counter", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  need(log >= 0, "open /data/counter");
  uint64_t expected = 1;
  bool lost = false;
  auto work = [&] {
    uint64_t n = 0;
    if (read(ends[0], &n, sizeof n) != sizeof n || n != expected++) lost = true;
    dprintf(log, "%llu\n", static_cast<unsigned long long>(n));
  };
  auto verify = [&](Verdict& verdict) {
    verdict.expect(!lost, "the pipe lost or doubled a number near %llu",
                   static_cast<unsigned long long>(expected));
    FILE* file = fopen("/data/counter", "re");
    verdict.expect(file, "can't read the counter file");
    if (!file) return;
    unsigned long long n = 0, line = 0;
    while (fscanf(file, "%llu", &n) == 1) {
      line++;
      verdict.expect(n == line, "line %llu says %llu", line, n);
    }
    fclose(file);
    verdict.expect(line == expected - 1, "%llu lines, %llu were written", line,
                   static_cast<unsigned long long>(expected - 1));
  };
  serve(verify, work);
}
