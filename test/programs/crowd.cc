// A great many threads that mostly sleep, each told apart by its name, signal mask,
// alternate stack, scheduling and thread-local memory. crowd THREADS
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "program.h"

using namespace program;

namespace {

struct State {
  std::atomic<uint64_t> rounds{0};
  std::atomic<const char*> wrong{nullptr};
  alignas(16) char alternate[4096];
};

State* states;
int thread_count;
thread_local uint64_t own[64];

int signal_of(int index) { return SIGRTMIN + index % 20; }
int nice_of(int index) { return index % 5; }

const char* look(int index, pid_t tid) {
  char name[16];
  prctl(PR_GET_NAME, name);
  if (name != "crowd-" + std::to_string(index)) return "name";
  if (syscall(SYS_gettid) != tid) return "id";
  sigset_t mask;
  pthread_sigmask(SIG_SETMASK, nullptr, &mask);
  for (int signal = SIGRTMIN; signal < SIGRTMIN + 20; signal++)
    if (sigismember(&mask, signal) != (signal == signal_of(index))) return "signal mask";
  stack_t stack;
  sigaltstack(nullptr, &stack);
  if (stack.ss_sp != states[index].alternate) return "alternate stack";
  if (getpriority(PRIO_PROCESS, 0) != nice_of(index)) return "nice value";
  if (check(own, sizeof own, static_cast<uint64_t>(index)) >= 0) return "thread-local memory";
  return nullptr;
}

void live(int index) {
  State& state = states[index];
  const pid_t tid = static_cast<pid_t>(syscall(SYS_gettid));
  prctl(PR_SET_NAME, ("crowd-" + std::to_string(index)).c_str());
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, signal_of(index));
  pthread_sigmask(SIG_SETMASK, &mask, nullptr);
  stack_t stack{};
  stack.ss_sp = state.alternate;
  stack.ss_size = sizeof state.alternate;
  need(sigaltstack(&stack, nullptr) == 0, "sigaltstack");
  need(setpriority(PRIO_PROCESS, 0, nice_of(index)) == 0, "setpriority");
  fill(own, sizeof own, static_cast<uint64_t>(index));
  for (;; state.rounds++) {
    if (const char* wrong = look(index, tid)) state.wrong = wrong;
    sleep_us(std::max(3000, 200 * thread_count));
  }
}

// Until each has gone round twice; longer than that nobody has to wait.
bool all_go_round() {
  std::vector<uint64_t> before;
  for (int i = 0; i < thread_count; i++) before.push_back(states[i].rounds);
  for (int patience = 0; patience < 3000; patience++) {
    int standing = 0;
    for (int i = 0; i < thread_count; i++)
      standing += states[i].rounds < before[static_cast<size_t>(i)] + 2;
    if (standing == 0) return true;
    sleep_us(10000);
  }
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  thread_count = argc > 1 ? atoi(argv[1]) : 100;
  states = new State[static_cast<size_t>(thread_count)];
  for (int i = 0; i < thread_count; i++) std::thread(live, i).detach();
  need(all_go_round(), "threads");
  serve([](Verdict& verdict) {
    verdict.expect(all_go_round(), "a thread stands still");
    for (int i = 0; i < thread_count; i++)
      verdict.expect(!states[i].wrong, "thread %d has another %s", i, states[i].wrong.load());
  });
}
