#include "engine/tasks/start_hold.h"

#include <fmt/format.h>
#include <linux/ptrace.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cerrno>

#include "kernel/fs.h"

namespace stasis::engine {

namespace {

constexpr long options = PTRACE_O_TRACEEXEC | PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL;
constexpr int syscall_stop = SIGTRAP | 0x80;

// runc's init tells its start by one byte that it execs now.
constexpr const char* runc_fifo = "exec.fifo";

long trace(unsigned request, pid_t tid, long data) {
  return kernel::call(SYS_ptrace, request, tid, 0, data);
}

struct Status {
  bool ended = false;
  int signal = 0, event = 0;
};

Status wait_for(pid_t tid) {
  int status = 0;
  long result;
  do result = kernel::call(SYS_wait4, tid, &status, __WALL, nullptr);
  while (result == -EINTR);
  if (result == -ECHILD) return {.ended = true};
  kernel::must(result, "wait for", "the container's init");
  if (!WIFSTOPPED(status)) return {.ended = true};
  return {false, WSTOPSIG(status), status >> 16};
}

}  // namespace

StartHold::StartHold(pid_t init)
    : init_(init), tracee_(Tracee::seize(init, options)), pidfd_(kernel::pidfd_open(init)) {
  tracee_.interrupt();
}

StartHold::~StartHold() {
  if (committed_ || init_ == 0) return;
  tracee_.forget();
  kernel::call(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0);
  // It ends only after all in its pid namespace, whom only their tracer can reap.
  for (;;) {
    long reaped = kernel::call(SYS_wait4, -1, nullptr, __WALL, nullptr);
    if (reaped < 0 && reaped != -EINTR) break;
  }
}

bool StartHold::wait_for_program(const std::function<void()>& inside,
                                 const std::function<void()>& before) {
  for (;;) {
    Status stop = wait_for(init_);
    if (stop.ended) {
      tracee_.forget();
      return false;
    }
    if (stop.event == PTRACE_EVENT_EXEC) return true;
    int deliver = 0;
    bool stays = false;
    if (stop.event == PTRACE_EVENT_STOP) {
      stays = stop.signal != SIGTRAP;  // SIGSTOP and its kind
    } else if (stop.event == 0 && stop.signal == syscall_stop) {
      ptrace_syscall_info info{};
      kernel::must(kernel::call(SYS_ptrace, PTRACE_GET_SYSCALL_INFO, init_, sizeof info, &info),
                   "look at", "the container's init");
      if (info.op == PTRACE_SYSCALL_INFO_ENTRY) on_entry(before);
      if (info.op == PTRACE_SYSCALL_INFO_EXIT) on_exit(inside);
    } else if (stop.event == 0) {
      deliver = stop.signal;
    }
    long result = trace(stays ? PTRACE_LISTEN : PTRACE_SYSCALL, init_, deliver);
    if (result != -ESRCH) kernel::must(result, "resume", "the container's init");
  }
}

void StartHold::on_entry(const std::function<void()>& before) {
  Registers r = tracee_.registers();
  long nr = static_cast<long>(r.orig_rax);
  if (nr == SYS_execve || nr == SYS_execveat) return before();
  if (nr != SYS_write || r.rdx != 1 || fifo_) return;
  std::string link = fmt::format("/proc/{}/fd/{}", init_, r.rdi);
  if (kernel::read_link(link).find(runc_fifo) == std::string::npos) return;
  fifo_ = kernel::pidfd_getfd(pidfd_.get(), static_cast<int>(r.rdi));
  // Nothing is written, and it doesn't notice; a seccomp filter sees a write.
  r.rdx = 0;
  tracee_.set_registers(r);
  swallow_ = true;
  before();
}

void StartHold::on_exit(const std::function<void()>& inside) {
  Registers r = tracee_.registers();
  if (swallow_) {
    swallow_ = false;
    r.rax = 1;
    r.rdx = 1;
    tracee_.set_registers(r);
  }
  // After its createContainer hooks, which would be in what is made here too.
  bool entered = r.orig_rax == SYS_pivot_root || r.orig_rax == SYS_chroot;
  if (entered && r.rax == 0) inside();
}

long StartHold::system_call(long nr, std::vector<uint64_t> args) {
  Registers before = tracee_.registers();
  uint64_t mask = tracee_.signal_mask();
  tracee_.set_signal_mask(all_but_faults);  // or one would come between
  constexpr uint64_t instruction_size = 2;
  long result = tracee_.run_syscall(before.rip - instruction_size, nr, std::move(args));
  tracee_.set_registers(before);
  tracee_.set_signal_mask(mask);
  return result;
}

void StartHold::commit() {
  if (fifo_) kernel::must(kernel::call(SYS_write, fifo_.get(), "0", 1), "release", "the start");
  committed_ = true;
}

}  // namespace stasis::engine
