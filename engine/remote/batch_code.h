// The machine code that runs a SyscallBatch inside a task: position
// independent, without a stack. This header and its .cc are all that another
// processor needs of its own.
#pragma once

#include <cstdint>
#include <span>

namespace stasis::engine {

// What the loop expects: rbx = address of the table, r12 = number of entries.
// It leaves the last result in r13.

// Loop, then int3. For tasks that we make.
struct TrampolineCode {
  std::span<const uint8_t> bytes;
  size_t entry;    // where a batch starts
  size_t trap;     // rip after the int3
  size_t syscall;  // a lone syscall instruction
};
TrampolineCode trampoline_code();

// Loop, then tgkill(self, signal): a tracer sees a signal-delivery stop; with
// no tracer the signal, which is one that the task ignores, does nothing and
// the code runs on and puts the task back as HealState says.
struct HealingCode {
  std::span<const uint8_t> bytes;  // code followed by a HealState
  size_t entry;
  size_t stopped;  // rip at the signal-delivery stop
  size_t state;    // offset of the HealState
};
HealingCode healing_code();

// What the healing code puts back, as it lies behind it in the task.
struct HealState {
  uint64_t r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi;
  uint64_t rip;
  uint16_t flags;      // low byte: overflow; high byte: flags as sahf takes them
  uint16_t direction;  // 1: backwards
  uint32_t tgid, tid, signal;
  uint64_t area, area_size;  // an area to unmap, size 0 for none
  uint64_t all_signals;      // the mask that blocks everything
  uint64_t mask;             // the task's own signal mask
};
static_assert(sizeof(HealState) == 16 * 8 + 16 + 4 * 8);

}  // namespace stasis::engine
