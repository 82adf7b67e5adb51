// System calls inside real tasks: children of the test.
#include <linux/ptrace.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <list>
#include <string>
#include <thread>

#include "engine/remote/healing_stub.h"
#include "engine/remote/trampoline.h"
#include "kernel/fs.h"
#include "kernel/proc_maps.h"
#include "kernel/proc_misc.h"

using namespace stasis;
using namespace stasis::engine;

namespace {

// Shared with the child: it counts as long as it is well.
struct Child {
  explicit Child(void (*body)(std::atomic<uint64_t>&)) {
    counter = new (mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))
        std::atomic<uint64_t>(0);
    pid = fork();
    if (pid == 0) {
      body(*counter);
      _exit(0);
    }
    while (*counter == 0) usleep(100);
  }
  ~Child() {
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    munmap(counter, 4096);
  }
  bool goes_on() const {
    uint64_t before = *counter;
    for (int i = 0; i < 2000 && *counter < before + 3; ++i) usleep(1000);
    return *counter >= before + 3;
  }
  std::string maps() const { return kernel::read_file("/proc/" + std::to_string(pid) + "/maps"); }

  std::atomic<uint64_t>* counter;
  pid_t pid;
};

void count(std::atomic<uint64_t>& counter) {
  for (;;) ++counter;
}

// Many registers carry state from one round to the next, flags included.
void count_and_sleep(std::atomic<uint64_t>& counter) {
  for (;;) {
    ++counter;
    usleep(1000);
  }
}

struct Target {
  explicit Target(pid_t p) : pid(p), tracee(Tracee::seize(p, 0)) {
    tracee.interrupt();
    tracee.wait_interrupted();
    mem = kernel::open("/proc/" + std::to_string(p) + "/mem", O_RDWR);
    for (const auto& area :
         kernel::parse_maps(kernel::read_file("/proc/" + std::to_string(p) + "/maps")))
      if (area.path == "[vdso]") place = find_stub_place(mem.get(), area.start, area.end);
    if (!place) throw Error("find a place in", "the test's child");
    leave_stub(tracee, *place);
  }
  HealingStub::Task task() {
    return {&tracee, pid, pid, pid, 0x20000000, SIGWINCH, "the test's child"};
  }
  pid_t pid;
  Tracee tracee;
  UniqueFd mem;
  std::optional<StubPlace> place;
};

// An engine that is busy until it is killed.
[[noreturn]] void run_batches(pid_t pid) {
  try {
    Target target(pid);
    HealingStub stub(target.task(), *target.place, target.mem.get());
    for (;;) {
      SyscallBatch batch;
      for (int i = 0; i < 64; ++i) batch.must("ask the id of", SYS_getpid);
      stub.run(batch);
    }
  } catch (const std::exception& error) {
    fprintf(stderr, "%s\n", error.what());
  }
  _exit(1);
}

}  // namespace

TEST_CASE("a process that is killed ends although we wait for its first thread alone") {
  Child child([](std::atomic<uint64_t>& counter) {
    std::thread([] {
      for (;;) pause();
    }).detach();
    count_and_sleep(counter);
  });
  UniqueFd list = kernel::open("/proc/" + std::to_string(child.pid) + "/task", O_RDONLY);
  Reports reports;
  std::list<Tracee> tracees;
  for (pid_t tid : kernel::numeric_entries(list.get(), "task")) {
    tracees.push_back(Tracee::try_seize(tid, 0, &reports));
    tracees.back().interrupt();
    CHECK(tracees.back().wait_interrupted() == 0);
  }
  REQUIRE(tracees.size() == 2);
  REQUIRE(tracees.front().tid() == child.pid);
  pid_t second = tracees.back().tid();
  CHECK(is_held(child.pid));
  CHECK(is_held(second));
  kill(child.pid, SIGKILL);
  CHECK_FALSE(tracees.front().wait_or_end());
  CHECK(is_ending(second));
  CHECK_FALSE(is_held(second));
  tracees.back().forget();
}

TEST_CASE("a batch lays out table and data, and names the call that failed") {
  SyscallBatch batch;
  auto text = batch.text("hello");
  auto out = batch.space(16);
  auto first = batch.must("do the first of", 1, 7, text, out);
  batch.may(2);
  batch.must("do the third of", 3);
  batch.point(out, 8, text, 2);
  REQUIRE(batch.size() == 3 * 64 + 8 + 16);
  std::vector<uint8_t> bytes(batch.size());
  batch.encode(0x1000, bytes);
  SyscallBatch::Entry entry;
  memcpy(&entry, bytes.data(), sizeof entry);
  CHECK(entry.nr == 1);
  CHECK(entry.args[0] == 7);
  CHECK(entry.args[1] == 0x1000 + 3 * 64);
  CHECK(entry.args[2] == 0x1000 + 3 * 64 + 8);
  uint64_t pointer;
  memcpy(&pointer, bytes.data() + size_t{3} * 64 + 8 + 8, 8);
  CHECK(pointer == 0x1000 + 3 * 64 + 2);

  auto set_result = [&](size_t index, int64_t value) {
    memcpy(bytes.data() + index * 64 + 56, &value, 8);
  };
  set_result(0, 42);
  set_result(1, -ENOENT);
  set_result(2, 0);
  CHECK_NOTHROW(batch.decode(bytes, "x"));
  CHECK(batch.result(first) == 42);
  set_result(2, -EPERM);
  CHECK_THROWS_WITH(batch.decode(bytes, "process 5"),
                    "cannot do the third of process 5: Operation not permitted");
}

TEST_CASE("a hole that is free in all layouts") {
  CHECK(find_common_hole({}, 4096) == 0x10000000);
  CHECK(find_common_hole({{0x10000000, 0x10002000}, {0x10001000, 0x10004000}}, 4096) == 0x10005000);
  CHECK(find_common_hole({{0x10003000, 0x10004000}}, 4096) == 0x10000000);
  CHECK(find_common_hole({{0x1000, uint64_t{1} << 46}}, 4096) == 0);
}

TEST_CASE("a signal that a task does not care for") {
  auto bit = [](int signal) { return uint64_t{1} << (signal - 1); };
  CHECK(idle_signal(0, 0, 0) == SIGURG);
  CHECK(idle_signal(bit(SIGURG), bit(SIGWINCH), 0) == SIGCHLD);
  CHECK(idle_signal(bit(SIGURG) | bit(SIGCHLD), bit(SIGWINCH), bit(SIGCONT)) == SIGWINCH);
  CHECK(idle_signal(bit(SIGURG), 0, bit(SIGWINCH) | bit(SIGCHLD) | bit(SIGCONT)) == 0);
}

TEST_CASE("interrupted system calls are rewound as the kernel does") {
  Registers r{};
  r.rip = 0x1002;
  r.orig_rax = SYS_read;
  r.rax = static_cast<uint64_t>(-512);
  CHECK(resumable(r).rip == 0x1000);
  CHECK(resumable(r).rax == SYS_read);
  r.orig_rax = SYS_nanosleep;
  r.rax = static_cast<uint64_t>(-516);
  CHECK(resumable(r).rax == SYS_restart_syscall);
  r.orig_rax = SYS_epoll_wait;
  r.rax = static_cast<uint64_t>(-EINTR);
  CHECK(resumable(r).rip == 0x1000);
  r.orig_rax = SYS_write;
  CHECK(resumable(r).rip == 0x1002);
  r.orig_rax = ~0ull;
  r.rax = static_cast<uint64_t>(-512);
  CHECK(resumable(r).rip == 0x1002);
}

TEST_CASE("a running and a sleeping task run a batch and go on as they were") {
  for (auto body : {count, count_and_sleep}) {
    Child child(body);
    std::string maps = child.maps();
    for (int round = 0; round < 50; ++round) {
      Target target(child.pid);
      uint64_t mask = target.tracee.signal_mask();
      {
        HealingStub stub(target.task(), *target.place, target.mem.get());
        SyscallBatch batch;
        auto id = batch.must("ask the id of", SYS_getpid);
        auto value = batch.space(sizeof(itimerval));
        batch.must("read a timer of", SYS_getitimer, ITIMER_REAL, value);
        auto fails = batch.may(SYS_close, 12345);
        stub.run(batch);
        CHECK(batch.result(id) == child.pid);
        CHECK(batch.result(fails) == -EBADF);
        CHECK(batch.view<itimerval>(value).it_value.tv_sec == 0);
      }
      CHECK(target.tracee.signal_mask() == mask);
      target.tracee.detach();
    }
    CHECK(child.goes_on());
    CHECK(child.maps() == maps);
  }
}

TEST_CASE("a task heals itself when its tracer dies inside a batch") {
  for (auto body : {count, count_and_sleep}) {
    Child child(body);
    std::string maps = child.maps();
    for (int round = 0; round < 60; ++round) {
      pid_t engine = fork();
      if (engine == 0) run_batches(child.pid);
      usleep(300 + 97 * static_cast<useconds_t>(round));
      kill(engine, SIGKILL);
      int status = 0;
      waitpid(engine, &status, 0);
      REQUIRE(WIFSIGNALED(status));
      REQUIRE(child.goes_on());
    }
    CHECK(child.maps() == maps);
  }
}

TEST_CASE("a task of ours runs batches on the trampoline") {
  Trampoline trampoline({});
  pid_t pid = fork();
  if (pid == 0)
    for (;;) pause();  // until it is killed below
  {
    Tracee tracee = Tracee::seize(pid, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD);
    tracee.interrupt();
    tracee.wait_interrupted();
    SyscallBatch batch;
    auto id = batch.must("ask the id of", SYS_getpid);
    trampoline.run(tracee, batch, "the child");
    CHECK(batch.result(id) == pid);
    SyscallBatch bad;
    bad.must("close a descriptor of", SYS_close, 12345);
    bad.must("end", SYS_exit_group, 1);  // not reached
    CHECK_THROWS_WITH(trampoline.run(tracee, bad, "the child"),
                      "cannot close a descriptor of the child: Bad file descriptor");
    CHECK(trampoline.run_traced(tracee, "unmap", "the child", SYS_munmap,
                                {trampoline.start(), trampoline.end() - trampoline.start()}) == 0);
  }
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
}
