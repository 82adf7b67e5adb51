// One thread under our ptrace. ptrace belongs to the thread that attached: a
// Tracee is used by that thread only. A Tracee that is destroyed while still
// attached is let go as it stands; whoever changed something in the task
// (HealingStub) undoes it before.
#pragma once

#include <sys/types.h>
#include <sys/user.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace stasis::engine {

using Registers = user_regs_struct;

// A signal mask under which nothing comes between but traps and faults.
inline constexpr uint64_t all_but_faults =
    ~(uint64_t{1} << (5 /* SIGTRAP */ - 1) | uint64_t{1} << (11 /* SIGSEGV */ - 1));

// Whether a thread is on its way out, or gone.
bool is_ending(pid_t tid);
// Of a tracee that we have not let run: false means that it is being killed.
bool is_held(pid_t tid);

// What the tracees of one tree report to us. Whoever waits for one of them takes
// note of what the others report meanwhile: the init of a pid namespace, and the
// first thread of a process, end only when all others have been reaped, and
// tracees are their tracer's to reap.
class Reports {
 public:
  // The next stop or end of `tid`, in the terms of wait4's status.
  int wait(pid_t tid);
  void wait_for_end(pid_t tid);

 private:
  std::map<pid_t, int> kept_;
};

class Tracee {
 public:
  // PTRACE_SEIZE: does not stop the task. `options` are PTRACE_O_*.
  static Tracee seize(pid_t tid, long options);
  // The same for a task that may be ending: holds nothing then.
  // `reports`: of all tracees of this thread, or of none.
  static Tracee try_seize(pid_t tid, long options, Reports* reports = nullptr);
  // Waits for a new task that the kernel has attached to us (CLONE_PTRACE) to
  // report its first stop. All other tracees are stopped meanwhile.
  static Tracee adopt_next();
  // A clone of one of `reports`' tracees, attached by the kernel (CLONE_PTRACE): waits
  // for its first stop, before it runs anything. Holds nothing when it has ended instead.
  static Tracee adopt(pid_t tid, Reports& reports);
  // Holds no task.
  static Tracee none() { return Tracee(0); }

  Tracee(Tracee&& other) noexcept;
  Tracee& operator=(Tracee&& other) noexcept;
  Tracee(const Tracee&) = delete;
  Tracee& operator=(const Tracee&) = delete;
  ~Tracee();

  pid_t tid() const { return tid_; }

  void interrupt() const;

  // A stop, in the terms of wait4's status: `signal` is what stopped it,
  // `event` the PTRACE_EVENT_* or 0.
  struct Stop {
    int signal;
    int event;
  };
  // Waits for the next stop. Throws when the task ends instead.
  Stop wait();
  std::optional<Stop> wait_or_end();
  // Waits for the stop that interrupt() asked for; a real signal that comes
  // first is remembered and given back at detach(). Leaves the task stopped.
  // Returns the stop signal of a task that was stopped already (SIGSTOP,
  // SIGTSTP, ...), 0 otherwise, and nothing when the task has ended instead.
  std::optional<int> wait_interrupted();

  Registers registers() const;
  void set_registers(const Registers& registers) const;
  uint64_t signal_mask() const;
  void set_signal_mask(uint64_t mask) const;
  // The XSAVE area as the kernel shows it (NT_X86_XSTATE).
  std::vector<uint8_t> xstate() const;
  void set_xstate(const std::vector<uint8_t>& area) const;

  void resume(int signal = 0) const;
  // Runs one instruction; what stopped it is SIGTRAP where nothing came between.
  Stop step();
  // Runs to the next entry to or exit from a system call and waits there.
  void to_syscall_stop();
  void set_options(long options) const;

  // Runs one system call with the `syscall` instruction that lies at `instruction`,
  // between two system call stops: without a trap. The other registers are lost.
  // Needs PTRACE_O_TRACESYSGOOD. Returns its result as the kernel gives it.
  long run_syscall(uint64_t instruction, long nr, std::vector<uint64_t> args);

  // Delivers signals held back meanwhile and lets the task run.
  void detach();
  // The task is gone (killed and reaped): nothing is left to detach.
  void forget() { tid_ = 0; }

  void hold_back(int signal) { held_back_.push_back(signal); }

 private:
  explicit Tracee(pid_t tid, Reports* reports = nullptr) : tid_(tid), reports_(reports) {}
  long request(int request, uintptr_t address, uintptr_t data, const char* what) const;

  pid_t tid_;
  Reports* reports_;
  std::vector<int> held_back_;
};

// Memory of a stopped task. Copies exactly `size` bytes or throws.
void read_memory(pid_t pid, uint64_t address, void* to, size_t size);
void write_memory(pid_t pid, uint64_t address, const void* from, size_t size);

}  // namespace stasis::engine
