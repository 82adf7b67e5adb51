#include "kernel/call.h"

#include <unistd.h>

#include <cerrno>

#ifdef STASIS_FAULTS
#include <signal.h>
#include <sys/syscall.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#endif

namespace stasis::kernel {

#ifdef STASIS_FAULTS
namespace {

long limit(const char* name) {
  const char* text = getenv(name);
  return text ? atol(text) : 0;
}

// One counter for a process and those it forks: each counts on from the fork.
struct Faults {
  std::atomic<long> calls{0};
  std::atomic<long> fail_at = limit("STASIS_FAIL_AT");
  std::atomic<long> kill_at = limit("STASIS_KILL_AT");
  // Number of a kernel call: the process stops before its first one.
  std::atomic<long> stop_before = limit("STASIS_STOP_BEFORE");
  const char* count_file = getenv("STASIS_COUNT_FILE");

  // Where a test wants to know how many calls there are, the count is written
  // at exit.
  ~Faults() {
    if (!count_file) return;
    if (FILE* file = fopen(count_file, "we")) {
      fprintf(file, "%ld\n", calls.load());
      fclose(file);
    }
  }
};

Faults faults;

}  // namespace
#endif

void spare_this_process() {
#ifdef STASIS_FAULTS
  faults.fail_at = faults.kill_at = 0;
#endif
}

long raw_call(long nr, long a1, long a2, long a3, long a4, long a5, long a6) {
#ifdef STASIS_FAULTS
  long n = ++faults.calls;
  if (n == faults.kill_at) ::kill(::getpid(), SIGKILL);
  if (n == faults.fail_at) return -EIO;
  if (long wanted = nr; nr != 0 && faults.stop_before.compare_exchange_strong(wanted, 0))
    ::kill(::getpid(), SIGSTOP);
#endif
  long result = ::syscall(nr, a1, a2, a3, a4, a5, a6);
  return result == -1 ? -errno : result;
}

}  // namespace stasis::kernel
