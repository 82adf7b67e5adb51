#include "engine/tasks/stub_site.h"

#include <fmt/format.h>

#include <utility>
#include <vector>

#include "base/error.h"
#include "engine/memory/address_space.h"
#include "engine/memory/vdso.h"

namespace stasis::engine {

namespace {

StubPlace stub_place(const FrozenTask& task) {
  for (const kernel::MappedArea& area : task.areas) {
    if (area.path != "[vdso]") continue;
    if (auto place = find_stub_place(task.mem.get(), area.start, area.end)) return *place;
  }
  for (const kernel::MappedArea& area : task.areas) {
    bool code = (area.prot & PROT_EXEC) && !area.shared && area.inode != 0;
    if (!code) continue;
    if (auto place = find_stub_place_in_text(task.mem.get(), area.end)) return *place;
  }
  throw Error("look inside", task.name())
      .because("its vdso is missing, and no code of it has room for a few instructions")
      .hint("start the container without vdso=0");
}

uint64_t find_hole(const FrozenTask& task) {
  std::vector<std::pair<uint64_t, uint64_t>> taken;
  taken.reserve(task.areas.size());
  for (const kernel::MappedArea& area : task.areas) taken.emplace_back(area.start, area.end);
  return roomiest_place(std::move(taken), 0);
}

}  // namespace

StubSite find_stub_site(const FrozenTask& task) { return {stub_place(task), find_hole(task)}; }

HealingStub stub_in(const FrozenTask& task, FrozenThread& thread, const StubSite& site) {
  const kernel::ProcStatus& s = thread.status;
  int signal = idle_signal(s.caught, s.blocked, s.pending | s.shared_pending);
  if (signal == 0)
    throw Error("look inside", task.name())
        .because("it uses all of SIGURG, SIGWINCH, SIGCHLD and SIGCONT itself")
        .hint("try again, or leave one of them to its default action");
  leave_stub(thread.tracee, site.place);
  leave_vdso(task, thread.tracee);
  return HealingStub({&thread.tracee, task.pid, task.ns_pid, thread.ns_tid, site.hole, signal,
                      fmt::format("thread {} of {}", thread.tid, task.name())},
                     site.place, task.mem.get());
}

}  // namespace stasis::engine
