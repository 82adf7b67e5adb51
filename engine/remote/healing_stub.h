// Runs system calls in a task that goes on living afterwards, and survives
// our death: whenever the engine is killed, the task finishes the batch it is
// in, puts its own registers, signal mask and memory back and goes on.
//
// The code lives in the zero tail of the task's vdso (written through
// /proc/PID/mem, so the task gets a private copy of that page), one stub per
// address space at a time. Where data does not fit there, the stub maps an
// area and unmaps it before it is done.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>

#include "base/unique_fd.h"
#include "engine/remote/batch_code.h"
#include "engine/remote/syscall_batch.h"
#include "engine/remote/tracee.h"

namespace stasis::engine {

// Where a stub can stand in a process: room of `size` zero bytes.
struct StubPlace {
  uint64_t address;
  size_t size;
};

// The zero tail of the vdso at [start, end) of a stopped process, if it is
// this kernel's and the tail large enough. `mem` is its /proc/PID/mem.
std::optional<StubPlace> find_stub_place(int mem, uint64_t start, uint64_t end);

// The same for a process that has unmapped its vdso: in the zero tail of a
// program's or library's code, mapped privately and ending at `end`.
std::optional<StubPlace> find_stub_place_in_text(int mem, uint64_t end);

// A task whose engine was killed may still be healing when the next one stops
// it: lets it run out of the old stub first.
void leave_stub(Tracee& tracee, StubPlace place);

class HealingStub {
 public:
  // The tracee is in a ptrace stop and stays in one. `saved` are the registers
  // found there; `hole` is an unmapped range of at least `hole_size` bytes.
  struct Task {
    Tracee* tracee;
    pid_t pid;     // thread group, in our pid namespace
    pid_t ns_pid;  // and the ids that the task itself knows
    pid_t ns_tid;
    uint64_t hole;  // page-aligned address
    int signal;     // one of SIGURG, SIGWINCH, SIGCHLD, SIGCONT; see idle_signal()
    std::string who;
  };
  HealingStub(Task task, StubPlace place, int mem);
  ~HealingStub();  // puts everything back

  void run(SyscallBatch& batch);
  // One call whose arguments point to nothing: maps no memory in the task.
  // Returns its result as the kernel gives it.
  long call(long nr, std::initializer_list<uint64_t> args);

  // Puts registers, mask and memory back; the destructor does the same without
  // telling of errors.
  void finish();

  const Registers& saved() const { return saved_; }
  uint64_t mask() const { return mask_; }

 private:
  void arm();
  void launch(uint64_t table, size_t calls);
  long run_one(const char* what, long nr, std::initializer_list<uint64_t> args);
  void write_stub(uint64_t offset, const void* bytes, size_t size);
  void write_state();

  Task task_;
  StubPlace place_;
  int mem_;
  Registers saved_;
  uint64_t mask_;
  HealState state_{};
  bool armed_ = false;
  bool faulted_ = false;
};

// Registers as they should be when the task goes on by itself after our stop:
// system calls that the stop interrupted are restarted, as the kernel would
// have done (arch/x86/kernel/signal.c), and those that return EINTR on any
// stop (signal(7), "Interruption of system calls by stop signals") rewound.
Registers resumable(const Registers& registers);

// A signal that this task ignores by default, has no handler for, has not
// pending and preferably does not block; 0 when there is none. Masks as in
// /proc/PID/status.
int idle_signal(uint64_t caught, uint64_t blocked, uint64_t pending);

}  // namespace stasis::engine
