// Semaphore operations that the kernel undoes when a process ends (SEM_UNDO):
// each question ends the process, looks, and starts another one.
#include <sys/mman.h>
#include <sys/sem.h>
#include <sys/wait.h>

#include <thread>

#include "program.h"

using namespace program;

namespace {

constexpr int count = 4;
const unsigned short at_rest[count] = {10, 20, 32760, 0};
const unsigned short in_use[count] = {7, 25, 0, 32767};
int set = -1;
pid_t child = -1;
volatile int* done = nullptr;

void spawn() {
  *done = 0;
  child = fork();
  need(child >= 0, "fork");
  if (child != 0) {
    while (!*done) sleep_us(500);
    return;
  }
  // What a thread does is undone when the last one ends.
  std::thread other([] {
    sembuf operations[] = {
        {0, -3, SEM_UNDO}, {1, 5, SEM_UNDO}, {2, -32760, SEM_UNDO}, {3, 32767, SEM_UNDO}};
    if (semop(set, operations, count) != 0) _exit(99);
    *done = 1;
    for (;;) pause();
  });
  for (;;) pause();
}

void expect_values(Verdict& verdict, const char* when, const unsigned short* wanted) {
  unsigned short found[count] = {};
  semctl(set, 0, GETALL, found);
  for (int i = 0; i < count; i++)
    verdict.expect(found[i] == wanted[i], "%s semaphore %d is %d, not %d", when, i, found[i],
                   wanted[i]);
}

}  // namespace

int main() {
  done = static_cast<int*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  set = semget(IPC_PRIVATE, count, 0600);
  need(set >= 0 && semctl(set, 0, SETALL, at_rest) == 0, "semget");
  spawn();
  serve([](Verdict& verdict) {
    expect_values(verdict, "in use", in_use);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    expect_values(verdict, "after the process' end", at_rest);
    semctl(set, 0, SETALL, at_rest);
    spawn();
  });
}
