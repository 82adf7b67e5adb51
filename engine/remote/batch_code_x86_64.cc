#include "engine/remote/batch_code.h"

// The loop: nr and arguments from the entry, result behind them and in r13; on
// to the next entry unless this one failed and is marked stop_on_failure (1).
// Entries marked 2 lie in memory that the task cannot write. A kernel error is
// -4095..-1. Local labels 1-3 are the macro's own.
asm(R"(
.pushsection .rodata
.macro BATCH_LOOP
1:  mov (%rbx), %eax
    mov 8(%rbx), %rdi
    mov 16(%rbx), %rsi
    mov 24(%rbx), %rdx
    mov 32(%rbx), %r10
    mov 40(%rbx), %r8
    mov 48(%rbx), %r9
    syscall
    mov %rax, %r13
    testl $2, 4(%rbx)
    jnz 2f
    mov %rax, 56(%rbx)
    testl $1, 4(%rbx)
    jz 2f
    cmp $-4095, %rax
    jae 3f
2:  add $64, %rbx
    dec %r12
    jnz 1b
3:
.endm

.balign 16
stasis_trampoline_start:
    BATCH_LOOP
    int3
stasis_trampoline_trap:
    nop
stasis_trampoline_syscall:
    syscall
    int3
stasis_trampoline_end:

.balign 16
stasis_healing_start:
    BATCH_LOOP
    mov stasis_heal_state+132(%rip), %edi
    mov stasis_heal_state+136(%rip), %esi
    mov stasis_heal_state+140(%rip), %edx
    mov $234, %eax                      # tgkill
    syscall
stasis_healing_stopped:
    mov $2, %edi                        # SIG_SETMASK
    lea stasis_heal_state+160(%rip), %rsi
    xor %edx, %edx
    mov $8, %r10d
    mov $14, %eax                       # rt_sigprocmask
    syscall
    mov stasis_heal_state+144(%rip), %rdi
    mov stasis_heal_state+152(%rip), %rsi
    mov $11, %eax                       # munmap
    syscall
    mov $2, %edi
    lea stasis_heal_state+168(%rip), %rsi
    xor %edx, %edx
    mov $8, %r10d
    mov $14, %eax
    syscall
    mov stasis_heal_state+0(%rip), %r15
    mov stasis_heal_state+8(%rip), %r14
    mov stasis_heal_state+16(%rip), %r13
    mov stasis_heal_state+24(%rip), %r12
    mov stasis_heal_state+32(%rip), %rbp
    mov stasis_heal_state+40(%rip), %rbx
    mov stasis_heal_state+48(%rip), %r11
    mov stasis_heal_state+56(%rip), %r10
    mov stasis_heal_state+64(%rip), %r9
    mov stasis_heal_state+72(%rip), %r8
    mov stasis_heal_state+88(%rip), %rcx
    mov stasis_heal_state+96(%rip), %rdx
    mov stasis_heal_state+104(%rip), %rsi
    mov stasis_heal_state+112(%rip), %rdi
    cld
    cmpw $0, stasis_heal_state+130(%rip)
    je 4f
    std
4:  mov stasis_heal_state+128(%rip), %ax
    add $127, %al                       # sets the overflow flag when al was 1
    sahf                                # all others but direction
    mov stasis_heal_state+80(%rip), %rax
    jmp *stasis_heal_state+120(%rip)
.balign 8
stasis_heal_state:
    .fill 176, 1, 0
stasis_healing_end:
.popsection
)");

extern "C" {
extern const uint8_t stasis_trampoline_start[], stasis_trampoline_trap[],
    stasis_trampoline_syscall[], stasis_trampoline_end[];
extern const uint8_t stasis_healing_start[], stasis_healing_stopped[], stasis_heal_state[],
    stasis_healing_end[];
}

namespace stasis::engine {

namespace {

size_t distance(const uint8_t* from, const uint8_t* to) {
  return reinterpret_cast<uintptr_t>(to) - reinterpret_cast<uintptr_t>(from);
}

}  // namespace

TrampolineCode trampoline_code() {
  const uint8_t* start = stasis_trampoline_start;
  return {{start, distance(start, stasis_trampoline_end)},
          0,
          distance(start, stasis_trampoline_trap),
          distance(start, stasis_trampoline_syscall)};
}

HealingCode healing_code() {
  const uint8_t* start = stasis_healing_start;
  return {{start, distance(start, stasis_healing_end)},
          0,
          distance(start, stasis_healing_stopped),
          distance(start, stasis_heal_state)};
}

}  // namespace stasis::engine
