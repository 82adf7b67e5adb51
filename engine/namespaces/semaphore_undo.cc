#include "engine/namespaces/semaphore_undo.h"

#include <fmt/format.h>
#include <linux/kcmp.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "kernel/call.h"

namespace stasis::engine::sysv {
namespace {

constexpr int highest = 32767;  // value, and adjustment
constexpr short no_undo = 0;

// Adds `amount` to the adjustment: what is done to the value is undone by the
// next operation of the same call. No value gets out of its range on the way.
void add_adjustment(std::vector<sembuf>& operations, uint16_t number, int value, int amount) {
  const int step = std::max(value, highest - value);
  const bool upwards = step == highest - value;  // of the value, first
  for (int left = std::abs(amount); left > 0; left -= step) {
    auto part = static_cast<short>(std::min(left, step));
    auto down = static_cast<short>(-part);
    // An operation with SEM_UNDO takes its amount off the adjustment.
    const bool first_undone = upwards == (amount < 0);
    sembuf first{number, upwards ? part : down, first_undone ? short{SEM_UNDO} : no_undo};
    sembuf second{number, upwards ? down : part, first_undone ? no_undo : short{SEM_UNDO}};
    operations.push_back(first);
    operations.push_back(second);
  }
}

// The limits between which an adjustment is known to lie.
struct Search {
  uint32_t set;
  uint16_t number;
  int value;
  int low = -highest - 1, up = highest;

  int middle() const { return low + (up - low + 1) / 2; }
};

// Fails with ERANGE if the adjustment is `search.middle()` or more, else with EAGAIN.
SyscallBatch::Slot ask(const Search& search, SyscallBatch& batch) {
  std::vector<sembuf> operations;
  add_adjustment(operations, search.number, search.value, highest + 1 - search.middle());
  const short never = search.value > 0 ? 0 : -1;
  operations.push_back({search.number, never, IPC_NOWAIT});
  auto data = batch.data(operations.data(), operations.size() * sizeof(sembuf));
  return batch.may(SYS_semop, search.set, data, operations.size());
}

void narrow(Search& search, long result) {
  if (result == -ERANGE)
    search.low = search.middle();
  else if (result == -EAGAIN)
    search.up = search.middle() - 1;
  else
    throw Error("dump", fmt::format("semaphore set {}", search.set))
        .because(fmt::format("what is to be undone of it can't be found out: error {}", -result))
        .hint("stop the program's use of SEM_UNDO");
}

}  // namespace

std::vector<Semaphores> semaphore_sets() {
  std::vector<Semaphores> sets;
  seminfo info{};
  long last = kernel::must(kernel::call(SYS_semctl, 0, 0, SEM_INFO, &info), "list", "semaphores");
  for (long index = 0; info.semusz > 0 && index <= last; ++index) {
    semid_ds set{};
    long id = kernel::call(SYS_semctl, index, 0, SEM_STAT, &set);
    if (id == -EINVAL) continue;  // no such one
    kernel::must(id, "look at", "a semaphore set");
    std::vector<uint16_t> values(set.sem_nsems);
    kernel::must(kernel::call(SYS_semctl, id, 0, GETALL, values.data()), "read",
                 fmt::format("semaphore set {}", id));
    sets.push_back({static_cast<uint32_t>(id), std::move(values)});
  }
  return sets;
}

bool has_undo(pid_t thread) { return !shares_undo(gettid(), thread); }

bool shares_undo(pid_t a, pid_t b) { return kernel::call(SYS_kcmp, a, b, KCMP_SYSVSEM, 0, 0) <= 0; }

std::vector<image::SemaphoreUndoEntry> read_undo(const std::vector<Semaphores>& sets, uint32_t pid,
                                                 const std::function<void(SyscallBatch&)>& run) {
  std::vector<Search> searches;
  for (const Semaphores& set : sets)
    for (size_t i = 0; i < set.values.size(); ++i)
      searches.push_back({set.id, static_cast<uint16_t>(i), set.values[i]});
  constexpr int rounds = 16;  // of 65536 possible values
  for (int round = 0; round < rounds && !searches.empty(); ++round) {
    SyscallBatch batch;
    std::vector<SyscallBatch::Slot> asked;
    asked.reserve(searches.size());
    for (const Search& search : searches) asked.push_back(ask(search, batch));
    run(batch);
    for (size_t i = 0; i < searches.size(); ++i) narrow(searches[i], batch.result(asked[i]));
  }
  std::vector<image::SemaphoreUndoEntry> found;
  for (const Search& search : searches) {
    if (search.low == 0) continue;
    image::SemaphoreUndoEntry& entry = found.emplace_back();
    entry.set_pid(pid);
    entry.set_id(search.set);
    entry.set_number(search.number);
    entry.set_value(search.low);
  }
  return found;
}

void restore_undo(const image::Checkpoint& checkpoint, uint32_t pid, SyscallBatch& batch) {
  if (!checkpoint.more) return;
  for (const image::SemaphoreUndoEntry& entry : checkpoint.more->semaphore_undo()) {
    if (entry.pid() != pid) continue;
    for (const image::SemaphoreSet& set : checkpoint.semaphores) {
      if (set.entry.desc().id() != entry.id()) continue;
      std::vector<sembuf> operations;
      auto number = static_cast<uint16_t>(entry.number());
      add_adjustment(operations, number, set.values[number], entry.value());
      auto data = batch.data(operations.data(), operations.size() * sizeof(sembuf));
      batch.must("restore the semaphore adjustments of", SYS_semop, entry.id(), data,
                 operations.size());
    }
  }
}

}  // namespace stasis::engine::sysv
