// The three interval timers go on firing at their rate, and one that is long
// off keeps what is left of it.
#include <signal.h>
#include <sys/time.h>

#include "program.h"

using namespace program;

namespace {
volatile sig_atomic_t fired[3];
void on_real(int) { fired[0] = fired[0] + 1; }
void on_virtual(int) { fired[1] = fired[1] + 1; }
}  // namespace

int main() {
  struct sigaction action = {};
  action.sa_flags = SA_RESTART;
  action.sa_handler = on_real;
  sigaction(SIGALRM, &action, nullptr);
  action.sa_handler = on_virtual;
  sigaction(SIGVTALRM, &action, nullptr);
  itimerval often = {{0, 20000}, {0, 20000}}, far = {{7000, 0}, {5000, 0}};
  setitimer(ITIMER_REAL, &often, nullptr);
  setitimer(ITIMER_VIRTUAL, &often, nullptr);
  setitimer(ITIMER_PROF, &far, nullptr);
  auto work = [] {
    for (volatile int i = 0; i < 200000;) i = i + 1;
    usleep(2000);
  };
  serve(
      [&](Verdict& verdict) {
        int before[2] = {fired[0], fired[1]};
        // By our own processor time: on a busy machine less of it passes.
        uint64_t start = now_us(CLOCK_PROCESS_CPUTIME_ID);
        while (now_us(CLOCK_PROCESS_CPUTIME_ID) - start < 400000)
          for (volatile int i = 0; i < 200000;) i = i + 1;
        verdict.expect(fired[0] - before[0] >= 10, "real timer fired %d times in 0.4 s",
                       fired[0] - before[0]);
        verdict.expect(fired[1] - before[1] >= 4, "virtual timer fired %d times in 0.4 s of work",
                       fired[1] - before[1]);
        itimerval now;
        getitimer(ITIMER_REAL, &now);
        verdict.expect(now.it_interval.tv_usec == 20000, "real interval");
        getitimer(ITIMER_PROF, &now);
        verdict.expect(now.it_interval.tv_sec == 7000, "profiling interval");
        verdict.expect(now.it_value.tv_sec > 4000 && now.it_value.tv_sec <= 5000,
                       "profiling timer has %ld s left", now.it_value.tv_sec);
      },
      work);
}
