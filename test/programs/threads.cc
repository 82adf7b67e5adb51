// Threads that each count with their own TLS, hold values in x87, SSE and AVX
// registers across everything, and meet at mutexes and condition variables.
#include <pthread.h>
#include <sys/syscall.h>

#include <atomic>
#include <thread>
#include <vector>

#include "program.h"

using namespace program;

namespace {

constexpr int thread_count = 8;
thread_local uint64_t own = 0;
thread_local char own_block[5000];

struct State {
  std::atomic<uint64_t> count{0};
  const char* what = "";
  pid_t tid = 0;
  std::atomic<bool> damaged{false};
};
State states[thread_count];
pthread_mutex_t turn_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t turn_changed = PTHREAD_COND_INITIALIZER;
int turn = 0;

void damage(State& state, const char* what) {
  state.what = what;
  state.damaged = true;
}

// The registers are loaded before and compared after a while of spinning
// without any call: a checkpoint in between must bring them all back.
bool avx_survives(uint64_t seed) {
  alignas(32) uint64_t in[4] = {seed, ~seed, seed * 3, seed * 7}, out[4] = {}, high[4] = {};
  asm volatile(
      "vmovdqa %[in], %%ymm3\n"
      "vmovdqa %[in], %%ymm15\n"
      "mov $200000, %%rcx\n"
      "1: pause\n"
      "dec %%rcx\n"
      "jnz 1b\n"
      "vmovdqa %%ymm3, %[out]\n"
      "vmovdqa %%ymm15, %[high]\n"
      : [out] "=m"(out), [high] "=m"(high)
      : [in] "m"(in)
      : "rcx", "xmm3", "xmm15", "cc");
  return !memcmp(in, out, sizeof in) && !memcmp(in, high, sizeof in);
}

bool x87_survives(double seed) {
  double back = 0;
  uint16_t control = 0x0e7f, control_back = 0;  // rounds towards zero, 64 bit
  uint16_t usual = 0x037f;
  asm volatile(
      "fldcw %[control]\n"
      "fldl %[in]\n"
      "mov $200000, %%rcx\n"
      "1: pause\n"
      "dec %%rcx\n"
      "jnz 1b\n"
      "fstpl %[back]\n"
      "fnstcw %[control_back]\n"
      "fldcw %[usual]\n"
      : [back] "=m"(back), [control_back] "=m"(control_back)
      : [in] "m"(seed), [control] "m"(control), [usual] "m"(usual)
      : "rcx", "cc");
  return back == seed && control == control_back;
}

void count(int index) {
  State& state = states[index];
  state.tid = static_cast<pid_t>(syscall(SYS_gettid));
  memset(own_block, index + 1, sizeof own_block);
  uint64_t seed = pattern(index, 1);
  for (;;) {
    own++;
    state.count = own;
    if (index % 2 == 0 && !avx_survives(seed + own)) damage(state, "AVX registers");
    if (index % 2 == 1 && !x87_survives(1.5 + static_cast<double>(own))) damage(state, "x87");
    if (own_block[own % sizeof own_block] != index + 1) damage(state, "thread-local memory");
    if (syscall(SYS_gettid) != state.tid) damage(state, "thread id");
    pthread_mutex_lock(&turn_lock);
    while (turn != index) pthread_cond_wait(&turn_changed, &turn_lock);
    turn = (turn + 1) % thread_count;
    pthread_cond_broadcast(&turn_changed);
    pthread_mutex_unlock(&turn_lock);
    sleep_us(500);
  }
}

}  // namespace

int main() {
  std::vector<std::thread> threads;
  threads.reserve(thread_count);
  for (int i = 0; i < thread_count; i++) threads.emplace_back(count, i);
  pthread_setname_np(threads[2].native_handle(), "third-one");
  serve([&](Verdict& verdict) {
    uint64_t before[thread_count];
    for (int i = 0; i < thread_count; i++) before[i] = states[i].count;
    for (int wait = 0; wait < 2000; wait++) {
      sleep_us(5000);
      bool all = true;
      for (int i = 0; i < thread_count; i++) all = all && states[i].count > before[i] + 1;
      if (all) break;
    }
    for (int i = 0; i < thread_count; i++) {
      verdict.expect(!states[i].damaged, "thread %d: %s damaged", i, states[i].what);
      verdict.expect(states[i].count > before[i], "thread %d stands still", i);
    }
    char name[16] = {};
    pthread_getname_np(threads[2].native_handle(), name, sizeof name);
    verdict.expect(!strcmp(name, "third-one"), "thread is called %s", name);
  });
}
