#include "engine/tasks/needed_calls.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <cstddef>
#include <vector>

#include "engine/image/checkpoint.h"

using namespace stasis;
using namespace stasis::engine;

namespace {

// A kernel without these calls, as far as this process can see.
void lose(const std::vector<long>& calls) {
  std::vector<sock_filter> program{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
  };
  for (long call : calls) {
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call), 0, 1));
    program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS));
  }
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  sock_fprog fprog{static_cast<unsigned short>(program.size()), program.data()};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &fprog) != 0)
    _exit(99);
}

std::string missing_without(const std::vector<long>& calls, const image::Checkpoint& checkpoint) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  pid_t child = fork();
  if (child == 0) {
    lose(calls);
    std::string said = needed_calls::missing(checkpoint);
    if (write(ends[1], said.data(), said.size()) < 0) _exit(98);
    _exit(0);
  }
  close(ends[1]);
  char text[4096];
  ssize_t size = read(ends[0], text, sizeof text);
  close(ends[0]);
  int status = -1;
  waitpid(child, &status, 0);
  REQUIRE(status == 0);
  return {text, static_cast<size_t>(size)};
}

image::Checkpoint one_task() {
  image::Checkpoint c;
  c.tasks.emplace_back();
  c.tasks[0].threads.emplace_back();
  return c;
}

}  // namespace

TEST_CASE("calls are missing only where the checkpoint holds something of theirs") {
  image::Checkpoint c = one_task();
  CHECK(needed_calls::missing(c).empty());
  CHECK_NOTHROW(needed_calls::check(c));
  std::vector<long> lost{SYS_shmget, SYS_msgget, SYS_rseq, SYS_eventfd2, SYS_memfd_create};
  CHECK(missing_without(lost, c).empty());
  c.segments.emplace_back();
  CHECK(missing_without(lost, c) == "shmget (System V shared memory)");
  c.tasks[0].threads[0].mutable_thread_core()->mutable_rseq_entry();
  c.files[7].set_type(image::EVENTFD);
  c.memfds.emplace_back();
  CHECK(missing_without(lost, c) ==
        "memfd_create (a memfd), shmget (System V shared memory), rseq (a thread's restartable "
        "sequences), eventfd2 (an eventfd)");
  CHECK(missing_without({SYS_pidfd_getfd}, c) == "pidfd_getfd (every process)");
}

TEST_CASE("to ask for a call does nothing") {
  image::Checkpoint c = one_task();
  c.segments.emplace_back();
  c.semaphores.emplace_back();
  c.queues.emplace_back();
  c.memfds.emplace_back();
  c.seccomp.emplace();
  c.tasks[0].threads[0].mutable_tc()->mutable_timers()->add_posix();
  c.tasks[0].threads[0].mutable_thread_core()->mutable_rseq_entry();
  uint32_t id = 1;
  for (auto type : {image::EVENTFD, image::EVENTPOLL, image::INOTIFY, image::FANOTIFY,
                    image::SIGNALFD, image::TIMERFD})
    c.files[id++].set_type(type);
  int before = dup(0);
  close(before);
  CHECK(needed_calls::missing(c).empty());
  int after = dup(0);
  close(after);
  CHECK(after == before);
}
