// Confinement: a seccomp filter, no_new_privs, capabilities and ids, of the
// process and of a thread with a filter more.
#include <linux/audit.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#include <atomic>
#include <thread>

#include "forbid.h"
#include "program.h"

using namespace program;

namespace {

std::string confinement(const char* task) {
  std::string status = read_file((std::string("/proc/") + task + "/status").c_str()), kept;
  for (size_t at = 0; at < status.size();) {
    size_t end = status.find('\n', at);
    std::string line = status.substr(at, end - at);
    for (const char* key : {"Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs:", "Seccomp"})
      if (line.rfind(key, 0) == 0) kept += line + "\n";
    at = end + 1;
  }
  return kept;
}

}  // namespace

int main() {
  need(prctl(PR_SET_KEEPCAPS, 1) == 0, "keepcaps");
  gid_t groups[] = {5, 20, 1000};
  bool privileged = syscall(SYS_setgroups, 3, groups) == 0;  // where the container may
  if (privileged) need(setresgid(100, 101, 102) == 0 && setresuid(200, 201, 202) == 0, "ids");
  need(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
  need(forbid(SYS_uname, 71) == 0, "seccomp");
  std::atomic<bool> check_thread{false}, thread_ok{false}, started{false};
  std::string thread_before, thread_after;
  std::thread other([&] {
    need(forbid(SYS_getpriority, 72) == 0, "seccomp");
    thread_before = confinement("thread-self");
    started = true;
    while (!check_thread) sleep_us(1000);
    thread_after = confinement("thread-self");
    bool refused = syscall(SYS_getpriority, 0, 0) == -1 && errno == 72;
    thread_ok = refused;
    for (;;) sleep_us(10000);
  });
  other.detach();
  while (!started) sleep_us(1000);
  std::string before = confinement("self");
  serve([&](Verdict& verdict) {
    utsname name;
    errno = 0;
    verdict.expect(syscall(SYS_uname, &name) == -1 && errno == 71, "the filter let uname through");
    verdict.expect(syscall(SYS_getpriority, 0, 0) != -1, "the thread's filter is on the process");
    std::string now = confinement("self");
    verdict.expect(now == before, "was\n%s, is\n%s", before.c_str(), now.c_str());
    check_thread = true;
    for (int i = 0; i < 400 && !thread_ok; i++) sleep_us(5000);
    verdict.expect(thread_ok, "the thread's own filter is gone");
    verdict.expect(thread_before == thread_after, "thread was\n%s, is\n%s", thread_before.c_str(),
                   thread_after.c_str());
  });
}
