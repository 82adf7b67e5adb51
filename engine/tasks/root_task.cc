#include "engine/tasks/root_task.h"

#include <fmt/format.h>
#include <linux/ptrace.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>

#include "base/report.h"
#include "engine/tasks/clone_as.h"
#include "kernel/fs.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

namespace stasis::engine {

namespace {

constexpr size_t longest_report = 32768;

void send_report(int channel, const std::string& report) {
  kernel::must(kernel::call(SYS_write, channel, report.data(), report.size()), "report");
}

// A process whose children go to another pid or time namespace than its own is
// refused threads (copy_process() in the kernel; the time namespace until Linux
// 6.3 or so): once the root task is made we are as before.
void send_children_home() {
  for (auto [name, flag] : {std::pair{"pid", CLONE_NEWPID}, std::pair{"time", CLONE_NEWTIME}}) {
    std::string ns = std::string("/proc/self/ns/") + name;
    if (kernel::read_link(ns) == kernel::read_link(ns + "_for_children")) continue;
    UniqueFd home = kernel::open(ns, O_RDONLY);
    kernel::must(kernel::call(SYS_setns, home.get(), flag), "go back to our own namespace", ns);
  }
}

std::pair<UniqueFd, UniqueFd> make_channel() {
  int ends[2];
  kernel::must(kernel::call(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends),
               "make a socket pair");
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

}  // namespace

RootTask::RootTask(const namespaces::Layout& layout, pid_t ns_pid, bool sibling,
                   const std::function<std::string()>& inside)
    : tracee_(Tracee::none()) {
  for (const namespaces::Layout::Join& join : layout.joins)
    kernel::must(kernel::call(SYS_setns, join.fd, join.flag), "enter a namespace of the container");
  auto [ours, theirs] = make_channel();

  // Signals would stop the task under our trace with nobody looking; a trap
  // and a fault must get through all the same.
  uint64_t blocked = ~(uint64_t{1} << (SIGTRAP - 1) | uint64_t{1} << (SIGSEGV - 1)), before = 0;
  kernel::must(kernel::call(SYS_rt_sigprocmask, SIG_BLOCK, &blocked, &before, 8), "block signals");
  // With CLONE_PARENT the kernel takes our own exit signal and wants 0 here.
  long pid = sibling ? clone_as(ns_pid, layout.clone_flags | CLONE_PARENT)
                     : clone_as(ns_pid, layout.clone_flags, SIGCHLD);
  if (pid == 0) {
    ours.reset();
    run_inside(theirs.get(), inside);
  }
  kernel::call(SYS_rt_sigprocmask, SIG_SETMASK, &before, nullptr, 8);
  if (pid == -EEXIST)
    throw Error("restore", fmt::format("process {}", ns_pid))
        .because("its process id is taken")
        .hint("end the process that has it, or restore a container with its own pid namespace");
  pid_ = static_cast<pid_t>(kernel::must(pid, "make the container's first process"));
  channel_ = std::move(ours);
  tracee_ =
      Tracee::seize(pid_, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | PTRACE_O_SUSPEND_SECCOMP);
  send_children_home();
}

void RootTask::run_inside(int channel, const std::function<std::string()>& inside) {
  try {
    char go = 0;
    if (kernel::call(SYS_read, channel, &go, 1) != 1) _exit(1);  // the engine has died
    send_report(channel, " " + inside());
  } catch (const Error& error) {
    kernel::call(SYS_write, channel, to_report(error).data(), to_report(error).size());
    _exit(1);
  } catch (const std::exception& error) {
    std::string report = to_report(Error("build the container's inside", "").because(error.what()));
    kernel::call(SYS_write, channel, report.data(), report.size());
    _exit(1);
  }
  for (;;) kernel::call(SYS_pause);  // until the engine takes over
}

Error RootTask::ended() {
  Error error = Error("build the container's inside", "");
  int status = 0;
  if (kernel::call(SYS_wait4, pid_, &status, __WALL, nullptr) != pid_)
    return error.because("its first process is gone");
  tracee_.forget();
  pid_ = 0;
  return error.because(
      WIFSIGNALED(status)
          ? fmt::format("its first process was killed by signal {}", WTERMSIG(status))
          : fmt::format("its first process ended with status {}", WEXITSTATUS(status)));
}

std::string RootTask::build() {
  kernel::must(kernel::call(SYS_write, channel_.get(), "g", 1), "start building the container");
  std::string report(longest_report, '\0');
  long n;
  do n = kernel::call(SYS_read, channel_.get(), report.data(), report.size());
  while (n == -EINTR);
  kernel::must(n, "hear from the container's first process");
  report.resize(static_cast<size_t>(n));
  if (report.empty()) throw ended();
  if (report[0] != ' ') throw from_report(report);
  tracee_.interrupt();
  if (!tracee_.wait_interrupted())
    throw Error("build the container's inside", "").because("its first process was killed");
  return report.substr(1);
}

RootTask::~RootTask() {
  if (kept_ || pid_ == 0) return;
  tracee_.forget();
  kernel::call(SYS_kill, pid_, SIGKILL);
  // The init of a pid namespace ends only after all in it; those are our
  // tracees and only we can reap them.
  for (;;) {
    long reaped = kernel::call(SYS_wait4, -1, nullptr, __WALL, nullptr);
    if (reaped == -EINTR) continue;
    if (reaped < 0) break;
  }
}

}  // namespace stasis::engine
