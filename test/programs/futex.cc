// What the kernel keeps for a thread library: robust lists, rseq, the address
// cleared when a thread ends, a futex that a thread waits at.
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/rseq.h>
#include <sys/syscall.h>

#include <atomic>
#include <thread>

#include "program.h"

using namespace program;

namespace {

struct Locks {
  pthread_mutex_t robust;
  std::atomic<int> go{0}, woken{0};
};

const struct rseq* my_rseq() {
  return reinterpret_cast<const struct rseq*>(static_cast<char*>(__builtin_thread_pointer()) +
                                              __rseq_offset);
}

}  // namespace

int main() {
  auto* locks = static_cast<Locks*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutex_init(&locks->robust, &attributes);

  pid_t holder = fork();
  need(holder >= 0, "fork");
  if (holder == 0) {  // dies with the lock held when told to
    pthread_mutex_lock(&locks->robust);
    locks->go = 1;
    while (locks->go != 2) sleep_us(2000);
    _exit(0);
  }
  while (locks->go != 1) sleep_us(1000);
  std::atomic<bool> end{false};
  std::thread waiter([&] {  // sleeps at a futex
    syscall(SYS_futex, &locks->woken, FUTEX_WAIT, 0, nullptr, nullptr, 0);
    while (!locks->woken) sleep_us(1000);
    while (!end) sleep_us(1000);
  });
  void* head = nullptr;
  size_t length = 0;
  syscall(SYS_get_robust_list, 0, &head, &length);
  bool has_rseq = __rseq_size > 0;
  bool first = true;
  serve([&](Verdict& verdict) {
    void* head_now = nullptr;
    syscall(SYS_get_robust_list, 0, &head_now, &length);
    verdict.expect(head_now == head, "robust list at %p, was at %p", head_now, head);
    if (has_rseq) {
      cpu_set_t all, one;
      sched_getaffinity(0, sizeof all, &all);
      for (int cpu = 0; cpu < 64; cpu++) {
        if (!CPU_ISSET(cpu, &all)) continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        sched_setaffinity(0, sizeof one, &one);
        const volatile auto* area = my_rseq();
        verdict.expect(area->cpu_id == static_cast<uint32_t>(cpu), "rseq says cpu %u, it is %d",
                       area->cpu_id, cpu);
      }
      sched_setaffinity(0, sizeof all, &all);
    }
    if (!first) return;
    first = false;
    locks->woken = 1;
    syscall(SYS_futex, &locks->woken, FUTEX_WAKE, 100, nullptr, nullptr, 0);
    end = true;
    waiter.join();  // needs the thread's clear_child_tid
    locks->go = 2;
    verdict.expect(pthread_mutex_lock(&locks->robust) == EOWNERDEAD, "the robust lock didn't tell");
    pthread_mutex_consistent(&locks->robust);
    pthread_mutex_unlock(&locks->robust);
  });
}
