#include <linux/ptrace.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>

#include "engine/tasks/births.h"
#include "engine/tasks/live_tree.h"
#include "engine/tasks/registers.h"

using namespace stasis;
using namespace stasis::engine;

namespace {

void add_task(image::Checkpoint& c, uint32_t pid, uint32_t ppid, uint32_t pgid, uint32_t sid) {
  image::TaskImage task;
  task.tree.set_pid(pid);
  task.tree.set_ppid(ppid);
  task.tree.set_pgid(pgid);
  task.tree.set_sid(sid);
  task.threads.emplace_back();
  task.threads[0].mutable_tc()->set_comm("t");
  c.tasks.push_back(std::move(task));
}

}  // namespace

TEST_CASE("sessions and groups that can be made, and those that cannot") {
  image::Checkpoint c;
  add_task(c, 1, 0, 1, 1);
  add_task(c, 2, 1, 1, 1);
  add_task(c, 3, 1, 3, 3);  // a session of its own
  add_task(c, 4, 3, 3, 3);
  add_task(c, 5, 3, 1, 1);  // born before its parent made a session
  add_task(c, 6, 2, 6, 1);
  add_task(c, 7, 2, 6, 1);
  CHECK_NOTHROW(LiveTree::check(c));
  SECTION("orphans of a dead leader come to the init") {
    add_task(c, 8, 1, 98, 99);
    add_task(c, 9, 1, 98, 99);
    Births births(c);
    auto helpers = births.made_by(c.root());
    REQUIRE(births.is_helper(*helpers.back()));
    CHECK(helpers.back()->tree.pid() == 99);
    CHECK(births.made_by(*helpers.back()).size() == 2);
    REQUIRE(births.made_by(c.tasks[7]).size() == 1);  // the group's leader
    CHECK(births.made_by(c.tasks[7]).front()->tree.pid() == 98);
    CHECK(births.made_by(c.tasks[8]).empty());
  }
  SECTION("an orphan of a living session is made below its leader") {
    add_task(c, 8, 1, 3, 3);
    Births births(c);
    const image::TaskImage* orphanage = births.made_by(c.tasks[2]).back();
    CHECK(births.is_helper(*orphanage));
    REQUIRE(births.made_by(*orphanage).size() == 1);
    CHECK(births.made_by(*orphanage).front() == &c.tasks[7]);
  }
  SECTION("a session that leaders below leaders left before their own") {
    add_task(c, 8, 3, 8, 8);
    add_task(c, 9, 8, 9, 9);
    add_task(c, 10, 9, 3, 3);
    Births births(c);
    CHECK(births.is_early(c.tasks[9]));
    CHECK(births.is_early(c.tasks[8]));
    CHECK(!births.is_early(c.tasks[7]));
  }
  SECTION("an orphan whose parent is no reaper") {
    add_task(c, 8, 2, 8, 99);
    CHECK_THROWS_WITH(LiveTree::check(c),
                      "cannot restore process 8 (t): its session 99 has lost its leader");
    c.tasks[1].threads[0].mutable_tc()->set_child_subreaper(true);
    CHECK_NOTHROW(LiveTree::check(c));
  }
  SECTION("a group of another session") {
    add_task(c, 8, 1, 3, 1);
    CHECK_THROWS_AS(LiveTree::check(c), Error);
  }
}

TEST_CASE("registers survive the image, FPU and vector state included") {
  auto* set = static_cast<volatile int*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  pid_t pid = fork();
  if (pid == 0) {
    asm volatile(
        "mov $0x1122334455667788, %%r12\n"
        "movq %%r12, %%xmm7\n"
        "movl $1, (%0)\n"
        "1: pause\n jmp 1b\n" ::"r"(set)
        : "r12", "xmm7", "memory");
    _exit(0);
  }
  while (*set == 0) usleep(100);
  {
    Tracee tracee = Tracee::seize(pid, PTRACE_O_EXITKILL);
    tracee.interrupt();
    tracee.wait_interrupted();
    Registers registers = tracee.registers();
    std::vector<uint8_t> xstate = tracee.xstate();
    CHECK(registers.r12 == 0x1122334455667788);
    image::ThreadInfoX86 info;
    store_registers(registers, xstate, &info);
    info.set_clear_tid_addr(0);
    REQUIRE(info.IsInitialized());
    Registers back = load_registers(info, registers);
    CHECK(back.r12 == registers.r12);
    CHECK(back.rip == registers.rip);
    CHECK(back.fs_base == registers.fs_base);
    tracee.set_xstate(load_xstate(info, xstate));
    CHECK(tracee.xstate() == xstate);

    info.mutable_fpregs()->mutable_xsave()->set_xstate_bv(uint64_t{1} << 18);  // AMX tiles
    CHECK_THROWS_AS(load_xstate(info, xstate), Error);
  }
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  munmap(const_cast<int*>(set), 4096);
}
