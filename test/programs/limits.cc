// What surrounds a process: limits, umask, directory, name, score, niceness,
// environment and arguments.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "program.h"

extern char** environ;
using namespace program;

int main(int argc, char** argv) {
  rlimit files = {100, 200}, core = {0, 0}, stack = {4 << 20, 4 << 20}, size = {1 << 26, 1 << 26};
  need(setrlimit(RLIMIT_NOFILE, &files) == 0, "nofile");
  need(setrlimit(RLIMIT_CORE, &core) == 0, "core");
  need(setrlimit(RLIMIT_STACK, &stack) == 0, "stack");
  need(setrlimit(RLIMIT_FSIZE, &size) == 0, "fsize");
  need(mkdir("/data/inside", 0755) == 0 || errno == EEXIST, "mkdir");
  umask(0137);
  need(chdir("/data/inside") == 0, "chdir");
  prctl(PR_SET_NAME, "limited");
  int oom = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  need(oom >= 0 && write(oom, "500", 3) == 3, "oom_score_adj");
  close(oom);
  int niceness = getpriority(PRIO_PROCESS, 0) + 5;  // who started the test may be nice or not
  need(setpriority(PRIO_PROCESS, 0, niceness) == 0, "setpriority");
  prctl(PR_SET_PDEATHSIG, SIGUSR1);
  std::string arguments, variables;
  for (int i = 0; i < argc; i++) arguments += std::string(argv[i]) + '\0';
  for (char** v = environ; *v; v++) variables += std::string(*v) + '\0';
  serve([&](Verdict& verdict) {
    auto limit = [&](__rlimit_resource what, rlimit want, const char* name) {
      rlimit is;
      getrlimit(what, &is);
      verdict.expect(is.rlim_cur == want.rlim_cur && is.rlim_max == want.rlim_max,
                     "limit %s is %lu/%lu", name, is.rlim_cur, is.rlim_max);
    };
    limit(RLIMIT_NOFILE, files, "nofile");
    limit(RLIMIT_CORE, core, "core");
    limit(RLIMIT_STACK, stack, "stack");
    limit(RLIMIT_FSIZE, size, "fsize");
    mode_t mask = umask(0137);
    verdict.expect(mask == 0137, "umask %o", mask);
    char directory[4096] = {};
    verdict.expect(getcwd(directory, sizeof directory) && !strcmp(directory, "/data/inside"),
                   "cwd %s", directory);
    char name[16] = {};
    prctl(PR_GET_NAME, name);
    verdict.expect(!strcmp(name, "limited"), "called %s", name);
    verdict.expect(read_file("/proc/self/oom_score_adj") == "500\n", "oom_score_adj %s",
                   read_file("/proc/self/oom_score_adj").c_str());
    verdict.expect(getpriority(PRIO_PROCESS, 0) == niceness, "nice %d, was %d",
                   getpriority(PRIO_PROCESS, 0), niceness);
    int death = 0;
    prctl(PR_GET_PDEATHSIG, &death);
    verdict.expect(death == SIGUSR1, "death signal %d", death);
    verdict.expect(read_file("/proc/self/cmdline") == arguments, "cmdline");
    verdict.expect(read_file("/proc/self/environ") == variables, "environ");
    char exe[4096] = {};
    verdict.expect(readlink("/proc/self/exe", exe, sizeof exe - 1) > 0 && strstr(exe, "limits"),
                   "exe is %s", exe);
  });
}
