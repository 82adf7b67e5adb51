#include "engine/remote/tracee.h"

#include <elf.h>
#include <fmt/core.h>
#include <linux/ptrace.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <cerrno>
#include <utility>

#include "kernel/fs.h"
#include "kernel/proc_stat.h"

namespace stasis::engine {

using kernel::call;
using kernel::must;

namespace {

std::string thread_name(pid_t tid) { return "thread " + std::to_string(tid); }

int wait_for(pid_t tid) {
  int status = 0;
  long result;
  do result = call(SYS_wait4, tid, &status, __WALL, nullptr);
  while (result == -EINTR);
  must(result, "wait for", thread_name(tid));
  return status;
}

}  // namespace

bool is_ending(pid_t tid) {
  constexpr uint32_t exiting = 0x4;  // PF_EXITING
  auto stat = kernel::find_stat(tid);
  return !stat || stat->state == 'Z' || stat->state == 'X' || (stat->flags & exiting);
}

bool is_held(pid_t tid) {
  auto stat = kernel::find_stat(tid);
  return stat && stat->state == 't';
}

int Reports::wait(pid_t tid) {
  for (;;) {
    auto kept = kept_.find(tid);
    if (kept != kept_.end()) {
      int status = kept->second;
      kept_.erase(kept);
      return status;
    }
    int status = 0;
    // Children of our own that aren't traced are no clones: __WCLONE leaves them out.
    long next = call(SYS_wait4, -1, &status, __WCLONE, nullptr);
    if (next == -EINTR) continue;
    // An end makes the stop before it void.
    kept_[static_cast<pid_t>(must(next, "wait for", thread_name(tid)))] = status;
  }
}

void Reports::wait_for_end(pid_t tid) {
  while (WIFSTOPPED(wait(tid))) continue;
}

Tracee Tracee::seize(pid_t tid, long options) {
  long result = call(SYS_ptrace, PTRACE_SEIZE, tid, 0, options);
  if (result == -EPERM)
    throw Error("trace", thread_name(tid))
        .with_errno(EPERM)
        .because("another tracer holds it, or stasis lacks CAP_SYS_PTRACE")
        .hint("detach the debugger (see TracerPid in /proc/" + std::to_string(tid) +
              "/status) and run stasis as root");
  must(result, "trace", thread_name(tid));
  return Tracee(tid);
}

Tracee Tracee::try_seize(pid_t tid, long options, Reports* reports) {
  try {
    Tracee tracee = seize(tid, options);
    tracee.reports_ = reports;
    return tracee;
  } catch (const Error&) {
    // A task on its way out gives ESRCH, or EPERM until it is a zombie.
    if (is_ending(tid)) return none();
    throw;
  }
}

Tracee Tracee::adopt_next() {
  int status = 0;
  long tid;
  do tid = call(SYS_wait4, -1, &status, __WALL, nullptr);
  while (tid == -EINTR);
  must(tid, "wait for a new task");
  if (!WIFSTOPPED(status) || status >> 16 != PTRACE_EVENT_STOP)
    throw Error("take over", thread_name(static_cast<pid_t>(tid)))
        .because("it did not wait for us");
  return Tracee(static_cast<pid_t>(tid));
}

Tracee Tracee::adopt(pid_t tid, Reports& reports) {
  int status = reports.wait(tid);
  return WIFSTOPPED(status) ? Tracee(tid) : none();
}

Tracee::Tracee(Tracee&& other) noexcept
    : tid_(std::exchange(other.tid_, 0)),
      reports_(other.reports_),
      held_back_(std::move(other.held_back_)) {}

Tracee& Tracee::operator=(Tracee&& other) noexcept {
  std::swap(tid_, other.tid_);
  std::swap(reports_, other.reports_);
  std::swap(held_back_, other.held_back_);
  return *this;
}

namespace {

// A call may fail once.
long let_go(pid_t tid) {
  long result = call(SYS_ptrace, PTRACE_DETACH, tid, 0, 0);
  return result < 0 ? call(SYS_ptrace, PTRACE_DETACH, tid, 0, 0) : result;
}

}  // namespace

Tracee::~Tracee() {
  if (tid_ != 0) let_go(tid_);
}

long Tracee::request(int request, uintptr_t address, uintptr_t data, const char* what) const {
  return must(call(SYS_ptrace, request, tid_, address, data), what, thread_name(tid_));
}

void Tracee::interrupt() const { request(PTRACE_INTERRUPT, 0, 0, "interrupt"); }

std::optional<Tracee::Stop> Tracee::wait_or_end() {
  int status = reports_ ? reports_->wait(tid_) : wait_for(tid_);
  if (WIFSTOPPED(status)) return Stop{WSTOPSIG(status) & 0x7f, status >> 16};
  forget();
  return std::nullopt;
}

Tracee::Stop Tracee::wait() {
  std::string subject = thread_name(tid_);
  if (auto stop = wait_or_end()) return *stop;
  throw Error("keep hold of", subject).because("it has ended");
}

std::optional<int> Tracee::wait_interrupted() {
  for (;;) {
    auto stop = wait_or_end();
    if (!stop) return std::nullopt;
    if (stop->event == PTRACE_EVENT_STOP) return stop->signal == SIGTRAP ? 0 : stop->signal;
    if (stop->event == 0) hold_back(stop->signal);
    resume();
  }
}

Registers Tracee::registers() const {
  Registers registers{};
  iovec area{&registers, sizeof registers};
  request(PTRACE_GETREGSET, NT_PRSTATUS, reinterpret_cast<uintptr_t>(&area), "read registers of");
  if (area.iov_len != sizeof registers)
    throw Error("read registers of", thread_name(tid_)).because("it is not a 64-bit task");
  return registers;
}

void Tracee::set_registers(const Registers& registers) const {
  iovec area{const_cast<Registers*>(&registers), sizeof registers};
  request(PTRACE_SETREGSET, NT_PRSTATUS, reinterpret_cast<uintptr_t>(&area), "set registers of");
}

uint64_t Tracee::signal_mask() const {
  uint64_t mask = 0;
  request(PTRACE_GETSIGMASK, sizeof mask, reinterpret_cast<uintptr_t>(&mask),
          "read the signal mask of");
  return mask;
}

void Tracee::set_signal_mask(uint64_t mask) const {
  request(PTRACE_SETSIGMASK, sizeof mask, reinterpret_cast<uintptr_t>(&mask),
          "set the signal mask of");
}

std::vector<uint8_t> Tracee::xstate() const {
  std::vector<uint8_t> bytes(16384);
  iovec area{bytes.data(), bytes.size()};
  request(PTRACE_GETREGSET, NT_X86_XSTATE, reinterpret_cast<uintptr_t>(&area), "read FPU state of");
  bytes.resize(area.iov_len);
  return bytes;
}

void Tracee::set_xstate(const std::vector<uint8_t>& area) const {
  iovec bytes{const_cast<uint8_t*>(area.data()), area.size()};
  request(PTRACE_SETREGSET, NT_X86_XSTATE, reinterpret_cast<uintptr_t>(&bytes), "set FPU state of");
}

void Tracee::resume(int signal) const {
  request(PTRACE_CONT, 0, static_cast<uintptr_t>(signal), "resume");
}

Tracee::Stop Tracee::step() {
  request(PTRACE_SINGLESTEP, 0, 0, "step");
  return wait();
}

void Tracee::to_syscall_stop() {
  for (;;) {
    request(PTRACE_SYSCALL, 0, 0, "step");
    Stop stop = wait();
    if (stop.event == 0 && stop.signal == SIGTRAP) return;
    if (stop.event == 0) hold_back(stop.signal);
  }
}

long Tracee::run_syscall(uint64_t instruction, long nr, std::vector<uint64_t> args) {
  args.resize(6);
  Registers r = registers();
  r.orig_rax = ~0ull;
  r.rip = instruction;
  r.rax = static_cast<uint64_t>(nr);
  r.rdi = args[0];
  r.rsi = args[1];
  r.rdx = args[2];
  r.r10 = args[3];
  r.r8 = args[4];
  r.r9 = args[5];
  set_registers(r);
  to_syscall_stop();
  to_syscall_stop();
  return static_cast<long>(registers().rax);
}

void Tracee::set_options(long options) const {
  request(PTRACE_SETOPTIONS, 0, static_cast<uintptr_t>(options), "set trace options of");
}

void Tracee::detach() {
  if (tid_ == 0) return;
  pid_t tid = std::exchange(tid_, 0);
  for (int signal : held_back_) call(SYS_tkill, tid, signal);
  must(let_go(tid), "let go of", thread_name(tid));
}

namespace {

std::string range(uint64_t address, size_t size, pid_t pid) {
  return fmt::format("{} bytes at {:#x} of process {}", size, address, pid);
}

}  // namespace

void read_memory(pid_t pid, uint64_t address, void* to, size_t size) {
  iovec local{to, size}, remote{reinterpret_cast<void*>(address), size};
  long n = must(call(SYS_process_vm_readv, pid, &local, 1, &remote, 1, 0), "read",
                range(address, size, pid));
  if (static_cast<size_t>(n) != size) throw Error("read", range(address, size, pid));
}

void write_memory(pid_t pid, uint64_t address, const void* from, size_t size) {
  iovec local{const_cast<void*>(from), size}, remote{reinterpret_cast<void*>(address), size};
  long n = must(call(SYS_process_vm_writev, pid, &local, 1, &remote, 1, 0), "write",
                range(address, size, pid));
  if (static_cast<size_t>(n) != size) throw Error("write", range(address, size, pid));
}

}  // namespace stasis::engine
