#include "engine/remote/healing_stub.h"

#include <fmt/core.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <vector>

#include "kernel/call.h"

namespace stasis::engine {

namespace {

// Kernel-internal results that are seen only at a ptrace stop.
enum Restart : long {
  restart_sys = -512,
  restart_no_intr = -513,
  restart_no_hand = -514,
  restart_block = -516,
};

constexpr size_t page = 4096;
constexpr uint64_t sigbit(int signal) { return uint64_t{1} << (signal - 1); }

size_t page_up(size_t size) { return (size + page - 1) & ~(page - 1); }

// Calls that a stop turns into EINTR although no signal handler ran.
bool interrupted_by_any_stop(uint64_t nr) {
  switch (nr) {
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
    case SYS_epoll_pwait2:
    case SYS_rt_sigtimedwait:
    case SYS_semop:
    case SYS_semtimedop:
    case SYS_recvfrom:
    case SYS_recvmsg:
    case SYS_recvmmsg:
    case SYS_accept:
    case SYS_accept4:
    case SYS_connect:
    case SYS_sendto:
    case SYS_sendmsg:
    case SYS_io_getevents:
      return true;
    default:
      return false;
  }
}

bool in_system_call(const Registers& r) { return static_cast<int64_t>(r.orig_rax) >= 0; }

void rewind(Registers& r) {
  r.rip -= 2;  // the syscall instruction
  r.rax = r.orig_rax;
  r.orig_rax = ~0ull;
}

}  // namespace

Registers resumable(const Registers& registers) {
  Registers r = registers;
  if (!in_system_call(r)) return r;
  switch (static_cast<long>(r.rax)) {
    case restart_sys:
    case restart_no_intr:
    case restart_no_hand:
      rewind(r);
      break;
    case restart_block:
      // The call goes on with what its restart block remembers.
      r.orig_rax = SYS_restart_syscall;
      rewind(r);
      break;
    case -EINTR:
      if (interrupted_by_any_stop(r.orig_rax)) rewind(r);
      break;
    default:
      break;
  }
  return r;
}

int idle_signal(uint64_t caught, uint64_t blocked, uint64_t pending) {
  // A blocked one does too (a shell blocks all while it forks): the stub runs
  // under a mask of its own.
  for (uint64_t unwanted : {caught | pending | blocked, caught | pending})
    for (int signal : {SIGURG, SIGWINCH, SIGCHLD, SIGCONT})
      if (!(unwanted & sigbit(signal))) return signal;
  return 0;
}

namespace {

// Our own vdso, which nobody has written to.
std::span<const uint8_t> pristine_vdso(size_t size) {
  unsigned long start = getauxval(AT_SYSINFO_EHDR);
  if (start == 0) return {};
  return {reinterpret_cast<const uint8_t*>(start), size};
}

}  // namespace

std::optional<StubPlace> find_stub_place(int mem, uint64_t start, uint64_t end) {
  std::vector<uint8_t> image(end - start);
  long n = kernel::call(SYS_pread64, mem, image.data(), image.size(), start);
  std::span<const uint8_t> ours = pristine_vdso(image.size());
  if (n != static_cast<long>(image.size()) || ours.empty()) return std::nullopt;
  size_t used = ours.size();
  while (used > 0 && ours[used - 1] == 0) --used;
  if (memcmp(image.data(), ours.data(), used) != 0) return std::nullopt;
  // The last bytes of a table can be zero and belong to it: stay well away.
  size_t at = (used + 64 + 15) & ~size_t{15};
  std::span<const uint8_t> code = healing_code().bytes;
  if (at + code.size() + 2 * sizeof(SyscallBatch::Entry) > image.size()) return std::nullopt;
  // Free, or with what an engine left there that was killed.
  auto tail = std::span(image).subspan(at);
  bool is_free = std::all_of(tail.begin(), tail.end(), [](uint8_t byte) { return byte == 0; });
  if (!is_free && memcmp(tail.data(), code.data(), healing_code().state) != 0) return std::nullopt;
  return StubPlace{start + at, image.size() - at};
}

std::optional<StubPlace> find_stub_place_in_text(int mem, uint64_t end) {
  constexpr size_t margin = 64;  // from what may be the program's
  const std::span<const uint8_t> code = healing_code().bytes;
  const size_t size = (code.size() + 4 * sizeof(SyscallBatch::Entry) + 15) & ~size_t{15};
  std::vector<uint8_t> tail(margin + size);
  if (tail.size() > page) return std::nullopt;
  long n = kernel::call(SYS_pread64, mem, tail.data(), tail.size(), end - tail.size());
  if (n != static_cast<long>(tail.size())) return std::nullopt;
  auto zero = [](uint8_t byte) { return byte == 0; };
  // Always the same place, so that what a killed engine left is found again.
  const uint8_t* stub = tail.data() + margin;
  if (!std::all_of(tail.begin(), tail.begin() + margin, zero)) return std::nullopt;
  if (!std::all_of(stub, stub + size, zero) && memcmp(stub, code.data(), healing_code().state) != 0)
    return std::nullopt;
  return StubPlace{end - size, size};
}

void leave_stub(Tracee& tracee, StubPlace place) {
  // Nothing tells that it is out, and interrupted at once it wouldn't run at all.
  for (long microseconds = 50; microseconds < 1'000'000; microseconds *= 2) {
    uint64_t ip = tracee.registers().rip;
    if (ip < place.address || ip >= place.address + place.size) return;
    tracee.resume();
    timespec moment{0, microseconds * 1000};
    kernel::call(SYS_nanosleep, &moment, nullptr);
    tracee.interrupt();
    if (!tracee.wait_interrupted()) break;
  }
  throw Error("look inside", "thread " + std::to_string(tracee.tid()))
      .because("it does not get out of the code that a killed engine left behind");
}

HealingStub::HealingStub(Task task, StubPlace place, int mem)
    : task_(std::move(task)),
      place_(place),
      mem_(mem),
      saved_(task_.tracee->registers()),
      mask_(task_.tracee->signal_mask()) {
  Registers r = resumable(saved_);
  state_ = {.r15 = r.r15,
            .r14 = r.r14,
            .r13 = r.r13,
            .r12 = r.r12,
            .rbp = r.rbp,
            .rbx = r.rbx,
            .r11 = r.r11,
            .r10 = r.r10,
            .r9 = r.r9,
            .r8 = r.r8,
            .rax = r.rax,
            .rcx = r.rcx,
            .rdx = r.rdx,
            .rsi = r.rsi,
            .rdi = r.rdi,
            .rip = r.rip,
            .flags = static_cast<uint16_t>((r.eflags >> 11 & 1) | (r.eflags & 0xff) << 8),
            .direction = static_cast<uint16_t>(r.eflags >> 10 & 1),
            .tgid = static_cast<uint32_t>(task_.ns_pid),
            .tid = static_cast<uint32_t>(task_.ns_tid),
            .signal = static_cast<uint32_t>(task_.signal),
            .area = 0,
            .area_size = 0,
            .all_signals = ~0ull,
            .mask = mask_};
}

HealingStub::~HealingStub() {
  try {
    finish();
  } catch (const std::exception&) {
    // The task is gone, or will run the healing code by itself.
  }
}

void HealingStub::write_stub(uint64_t offset, const void* bytes, size_t size) {
  long n = kernel::must(kernel::call(SYS_pwrite64, mem_, bytes, size, place_.address + offset),
                        "write into the vdso of", task_.who);
  if (static_cast<size_t>(n) != size) throw Error("write into the vdso of", task_.who);
}

void HealingStub::write_state() { write_stub(healing_code().state, &state_, sizeof state_); }

void HealingStub::arm() {
  if (armed_) return;
  HealingCode code = healing_code();
  armed_ = true;  // from the first byte on there is something to put back
  write_stub(0, code.bytes.data(), code.bytes.size());
  write_state();
}

// Runs `calls` entries of the table and waits at the stop behind them.
// Registers first, then the mask: if we die in between, the stub runs, heals
// and the mask is still the task's own.
void HealingStub::launch(uint64_t table, size_t calls) {
  HealingCode code = healing_code();
  Registers r = saved_;
  r.orig_rax = ~0ull;  // no system call of the task's is to be restarted
  r.rip = place_.address + code.entry;
  r.rbx = table;
  r.r12 = calls;
  r.eflags &= ~uint64_t{1 << 10 | 1 << 8};
  task_.tracee->set_registers(r);
  task_.tracee->set_signal_mask(~(sigbit(task_.signal) | sigbit(SIGTRAP)));
  task_.tracee->resume();
  for (;;) {
    Tracee::Stop stop = task_.tracee->wait();
    if (stop.event == 0 && stop.signal == task_.signal &&
        task_.tracee->registers().rip == place_.address + code.stopped)
      return;
    // SIGSTOP cannot be blocked, a group stop has to be passed, and our idle
    // signal may come from elsewhere; all but the last matter later.
    if (stop.event == 0 && stop.signal != task_.signal) {
      if (stop.signal == SIGSEGV || stop.signal == SIGBUS || stop.signal == SIGILL) {
        faulted_ = true;
        throw Error("run system calls in", task_.who)
            .because(fmt::format("it took signal {} inside the batch", stop.signal));
      }
      task_.tracee->hold_back(stop.signal);
    }
    task_.tracee->resume();
  }
}

long HealingStub::call(long nr, std::initializer_list<uint64_t> args) {
  arm();
  // The vdso is not writable for the task itself.
  SyscallBatch::Entry entry{
      static_cast<uint32_t>(nr), SyscallBatch::keep_result_in_register, {}, 0};
  std::copy(args.begin(), args.end(), entry.args);
  size_t at = (healing_code().bytes.size() + 15) & ~size_t{15};
  write_stub(at, &entry, sizeof entry);
  launch(place_.address + at, 1);
  return static_cast<long>(task_.tracee->registers().r13);
}

long HealingStub::run_one(const char* what, long nr, std::initializer_list<uint64_t> args) {
  return kernel::must(call(nr, args), what, task_.who);
}

void HealingStub::run(SyscallBatch& batch) {
  if (batch.empty()) return;
  arm();
  std::vector<uint8_t> image(batch.size());
  state_.area = task_.hole;
  state_.area_size = page_up(batch.size());
  write_state();
  run_one("map a page in", SYS_mmap,
          {task_.hole, state_.area_size, PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, ~0ull, 0});
  batch.encode(task_.hole, image);
  write_memory(task_.pid, task_.hole, image.data(), image.size());
  launch(task_.hole, batch.calls());
  read_memory(task_.pid, task_.hole, image.data(), image.size());
  run_one("unmap a page in", SYS_munmap, {task_.hole, state_.area_size});
  state_.area_size = 0;
  write_state();
  batch.decode(image, task_.who);
}

void HealingStub::finish() {
  if (!armed_) return;
  armed_ = false;
  // After a fault inside the batch the task is better off with a stray page
  // than with another try.
  if (state_.area_size != 0 && !faulted_)
    run_one("unmap a page in", SYS_munmap, {state_.area, state_.area_size});
  state_.area_size = 0;
  task_.tracee->set_signal_mask(mask_);
  Registers back = saved_;
  // Only what no kernel path would restart by itself is changed.
  if (in_system_call(back) && static_cast<long>(back.rax) == -EINTR &&
      interrupted_by_any_stop(back.orig_rax))
    rewind(back);
  task_.tracee->set_registers(back);
  std::vector<uint8_t> zeros(place_.size);
  write_stub(0, zeros.data(), zeros.size());
}

}  // namespace stasis::engine
