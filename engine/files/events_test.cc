// Counters, timers, signals and epoll.
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

#include <algorithm>

#include "engine/files/test_support.h"

namespace stasis::engine::files {

TEST_CASE("event counters keep count, mode and flags") {
  if (!may_examine()) return;
  Child child([&] {
    eventfd(5, EFD_NONBLOCK);                 // 0
    eventfd(7, EFD_SEMAPHORE | EFD_CLOEXEC);  // 1
    eventfd(0, 0);                            // 2
  });
  Written written({child.pid()});
  Again again(written.checkpoint);
  for (int number : {0, 1, 2}) check_same(child, again, number);
  eventfd_t count = 0;
  REQUIRE(eventfd_read(again[0], &count) == 0);
  CHECK(count == 5);
  if (child.info(1).find("eventfd-semaphore")) {
    REQUIRE(eventfd_read(again[1], &count) == 0);
    CHECK(count == 1);
  }
}

TEST_CASE("timer descriptors go on where they stood") {
  if (!may_examine()) return;
  Child child([] {
    timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);  // 0: relative, repeating
    timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC);    // 1: absolute
    timerfd_create(CLOCK_BOOTTIME, 0);              // 2: expired once
    timerfd_create(CLOCK_MONOTONIC, 0);             // 3: never set
    itimerspec soon{{5, 500}, {1000, 0}}, once{{0, 0}, {0, 1}},
        at{{0, 0}, {time(nullptr) + 500, 0}};
    timerfd_settime(0, 0, &soon, nullptr);
    timerfd_settime(1, TFD_TIMER_ABSTIME, &at, nullptr);
    timerfd_settime(2, 0, &once, nullptr);
    usleep(1000);
  });
  Written written({child.pid()});
  Again again(written.checkpoint);
  for (int number : {0, 1, 2, 3}) {
    check_same(child, again, number);
    for (const char* key : {"clockid", "ticks", "settime", "it_interval"})
      CHECK(*info_of(again[number]).find(key) == *child.info(number).find(key));
    itimerspec time{}, theirs{};
    REQUIRE(timerfd_gettime(again[number], &time) == 0);
    UniqueFd copy = kernel::pidfd_getfd(kernel::pidfd_open(child.pid()).get(), number);
    REQUIRE(timerfd_gettime(copy.get(), &theirs) == 0);
    CHECK(std::abs(time.it_value.tv_sec - theirs.it_value.tv_sec) <= 2);
  }
}

TEST_CASE("signal descriptors keep their mask") {
  if (!may_examine()) return;
  Child child([] {
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    sigaddset(&mask, SIGRTMAX);
    signalfd(-1, &mask, SFD_NONBLOCK);
  });
  Written written({child.pid()});
  Again again(written.checkpoint);
  check_same(child, again, 0);
  CHECK(*info_of(again[0]).find("sigmask") == *child.info(0).find("sigmask"));
}

TEST_CASE("an epoll's watches are put in by the task that has their numbers") {
  if (!may_examine()) return;
  Child child([] {
    int fds[2];
    epoll_create1(EPOLL_CLOEXEC);  // 0
    (void)!pipe(fds);              // 1, 2
    eventfd(0, 0);                 // 3
    epoll_event read{EPOLLIN | EPOLLET, {.u64 = 0x123456789abcdef0}}, moved{EPOLLOUT, {.u64 = 7}};
    epoll_ctl(0, EPOLL_CTL_ADD, 1, &read);
    epoll_ctl(0, EPOLL_CTL_ADD, 3, &moved);
    dup2(3, 5);
    close(3);
  });
  Written written({child.pid()});
  Again again(written.checkpoint);
  check_same(child, again, 0);
  auto watches = again.restorer.watches(written.checkpoint.tasks[0]);
  REQUIRE(watches.size() == 2);
  std::sort(watches.begin(), watches.end(), [](auto& a, auto& b) { return a.fd < b.fd; });
  CHECK(watches[0].epoll == 0);
  CHECK(watches[0].fd == 1);
  CHECK(watches[0].events == (EPOLLIN | EPOLLET | EPOLLERR | EPOLLHUP));
  CHECK(watches[0].data == 0x123456789abcdef0);
  CHECK(watches[1].fd == 5);
  CHECK(watches[1].data == 7);
}

}  // namespace stasis::engine::files
