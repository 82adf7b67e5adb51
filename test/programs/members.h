// Processes that answer over shared memory with who they are.
#pragma once

#include <sys/mman.h>
#include <sys/prctl.h>

#include <atomic>
#include <vector>

#include "program.h"

namespace program {

struct Identity {
  int pid, parent, session, group;
  bool operator==(const Identity&) const = default;
};

struct Member {
  std::atomic<int> pid{0}, parent{0}, session{0}, group{0};
  std::atomic<uint64_t> ticks{0};
  char name[16];

  Identity identity() const { return {pid, parent, session, group}; }
};

inline Member* share_members(int count) {
  void* memory = mmap(nullptr, sizeof(Member) * static_cast<size_t>(count), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  need(memory != MAP_FAILED, "mmap");
  return static_cast<Member*>(memory);
}

// The life of a member's process.
[[noreturn]] inline void live(Member& me, long pause_us = 3000) {
  for (;; me.ticks++) {
    me.pid = getpid();
    me.parent = getppid();
    me.session = getsid(0);
    me.group = getpgrp();
    prctl(PR_GET_NAME, me.name);
    sleep_us(pause_us);
  }
}

}  // namespace program
