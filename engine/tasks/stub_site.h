// Where system calls can be run in a stopped task that lives on afterwards.
#pragma once

#include "engine/remote/healing_stub.h"
#include "engine/tasks/frozen_tree.h"

namespace stasis::engine {

struct StubSite {
  StubPlace place;
  uint64_t hole;  // unmapped: for what has no room in the stub
};

// Needs the task's areas and mem.
StubSite find_stub_site(const FrozenTask& task);

// Lets the thread leave what a killed engine left there first. Needs its status.
HealingStub stub_in(const FrozenTask& task, FrozenThread& thread, const StubSite& site);

}  // namespace stasis::engine
