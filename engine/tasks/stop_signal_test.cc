// What stops a restored task again.
#include <signal.h>

#include <catch2/catch.hpp>

#include "engine/image/format.h"
#include "engine/tasks/signals.h"

namespace stasis::engine {

namespace {

image::TaskImage& add(image::Checkpoint& checkpoint, uint32_t pid, uint32_t ppid, uint32_t pgid) {
  image::TaskImage& task = checkpoint.tasks.emplace_back();
  task.tree.set_pid(pid);
  task.tree.set_ppid(ppid);
  task.tree.set_pgid(pgid);
  task.tree.set_sid(1);
  task.threads.emplace_back().mutable_tc()->set_task_state(image::task_alive);
  return task;
}

}  // namespace

TEST_CASE("a stopped task is stopped by what stopped it, where that works") {
  image::Checkpoint checkpoint;
  checkpoint.tasks.reserve(3);
  add(checkpoint, 1, 0, 1);
  image::TaskImage& child = add(checkpoint, 2, 1, 2);
  image::TaskCoreEntry& core = *child.threads.front().mutable_tc();
  CHECK(stop_signal(checkpoint, child) == 0);
  core.set_task_state(image::task_stopped);
  CHECK(stop_signal(checkpoint, child) == SIGSTOP);
  core.set_stop_signo(SIGTSTP);
  CHECK(stop_signal(checkpoint, child) == SIGTSTP);
  core.set_blk_sigset(uint64_t{1} << (SIGTSTP - 1));
  CHECK(stop_signal(checkpoint, child) == SIGSTOP);
  core.set_blk_sigset(0);
  child.tree.set_pgid(1);  // no member's parent is in another group: orphaned
  CHECK(stop_signal(checkpoint, child) == SIGSTOP);
}

TEST_CASE("a task that was about to stop does so") {
  image::Checkpoint checkpoint;
  image::TaskImage& task = add(checkpoint, 1, 0, 1);
  siginfo_t info{};
  info.si_signo = SIGSTOP;
  task.threads.front().mutable_tc()->mutable_signals_s()->add_signals()->set_siginfo(&info,
                                                                                     sizeof info);
  CHECK(stop_signal(checkpoint, task) == SIGSTOP);
}

}  // namespace stasis::engine
