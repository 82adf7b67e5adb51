// Signal actions, masks, pending signals (of the process and of a thread, with
// their values and their number) and alternate stacks.
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>

#include "program.h"

using namespace program;

namespace {

volatile sig_atomic_t on_alternate = 0, realtime_count = 0, realtime_sum = 0, user2 = 0;
char alternate[65536];

void plain(int) { user2 = user2 + 1; }

void detailed(int, siginfo_t* info, void*) {
  char here;
  on_alternate = &here >= alternate && &here < alternate + sizeof alternate;
  realtime_count = realtime_count + 1;
  realtime_sum = realtime_sum + info->si_value.sival_int;
}

void queue(int signal, int value) {
  sigval v;
  v.sival_int = value;
  need(sigqueue(getpid(), signal, v) == 0, "sigqueue");
}

}  // namespace

int main() {
  stack_t stack = {};
  stack.ss_sp = alternate;
  stack.ss_size = sizeof alternate;
  need(sigaltstack(&stack, nullptr) == 0, "sigaltstack");

  struct sigaction action = {};
  action.sa_sigaction = detailed;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigaddset(&action.sa_mask, SIGUSR2);
  sigaction(SIGRTMIN + 3, &action, nullptr);
  struct sigaction simple = {};
  simple.sa_handler = plain;
  sigaction(SIGUSR2, &simple, nullptr);
  signal(SIGPIPE, SIG_IGN);

  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGRTMIN + 3);
  sigaddset(&blocked, SIGUSR2);
  sigaddset(&blocked, SIGTERM);
  sigprocmask(SIG_BLOCK, &blocked, nullptr);
  queue(SIGRTMIN + 3, 10);
  queue(SIGRTMIN + 3, 200);
  queue(SIGRTMIN + 3, 3000);
  syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR2);  // this thread's own

  bool first = true;
  serve([&](Verdict& verdict) {
    struct sigaction now;
    sigaction(SIGRTMIN + 3, nullptr, &now);
    verdict.expect(now.sa_sigaction == detailed, "handler");
    verdict.expect(now.sa_flags == (SA_SIGINFO | SA_ONSTACK | SA_RESTART) ||
                       (now.sa_flags & ~0x04000000) == (SA_SIGINFO | SA_ONSTACK | SA_RESTART),
                   "action flags %x", now.sa_flags);
    verdict.expect(sigismember(&now.sa_mask, SIGUSR2) == 1, "action mask");
    sigaction(SIGPIPE, nullptr, &now);
    verdict.expect(now.sa_handler == SIG_IGN, "SIGPIPE no longer ignored");
    sigset_t mask;
    sigprocmask(SIG_SETMASK, nullptr, &mask);
    for (int s = 1; s < 65; s++)
      verdict.expect(sigismember(&mask, s) == sigismember(&blocked, s), "mask of signal %d", s);
    stack_t back;
    sigaltstack(nullptr, &back);
    verdict.expect(back.ss_sp == alternate && back.ss_size == sizeof alternate, "alternate stack");
    if (!first) return;
    first = false;
    // The first question comes after the restore: let what was pending in.
    sigprocmask(SIG_UNBLOCK, &blocked, nullptr);
    sigprocmask(SIG_BLOCK, &blocked, nullptr);
    verdict.expect(realtime_count == 3, "%d realtime signals, not 3", realtime_count);
    verdict.expect(realtime_sum == 3210, "their values add up to %d", realtime_sum);
    verdict.expect(on_alternate, "the handler ran on the usual stack");
    verdict.expect(user2 == 1, "%d of 1 signals to the thread", user2);
  });
}
