#include "engine/memory/fork_snapshot.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "kernel/fs.h"

namespace stasis::engine {

std::vector<PageRange> areas_of_a_copy(const FrozenTask& task) {
  std::vector<PageRange> areas;
  for (const kernel::MappedArea& area : task.areas) {
    if (area.shared) continue;
    // With too few huge pages left one of the two would be killed at a write.
    if (area.flags.has("ht")) return {};
    if (area.flags.has("dc") || area.flags.has("wf")) continue;
    // Where the code stands, while it is copied, that copies it.
    if ((area.prot & PROT_EXEC) && (area.path == "[vdso]" || area.inode != 0)) continue;
    areas.push_back({area.start, area.end});
  }
  return areas;
}

ForkSnapshot::ForkSnapshot(const DumpPlan& plan, const cgroup::Hierarchies& hierarchies,
                           const AreaReader& areas, Log& log)
    : plan_(plan),
      areas_(areas),
      log_(log),
      headroom_(hierarchies),
      later_(plan.workers),
      copies_(log) {}

bool ForkSnapshot::wanted(const FrozenTree& tree) const {
  // Who stays frozen waits for nothing.
  return plan_.leave_running && plan_.snapshot != Snapshot::plain && !tree.found_frozen();
}

void ForkSnapshot::add(FrozenTask& task, std::vector<PageCopier::Piece> pieces) {
  uint64_t bytes = 0;
  for (const PageCopier::Piece& piece : pieces) bytes += piece.size;
  candidates_.push_back({&task, std::move(pieces), bytes});
}

bool ForkSnapshot::worthwhile(const Candidate& candidate) const {
  // Below, writing it takes no longer than copying the task and removing the copy.
  constexpr uint64_t least = 4 << 20;
  return candidate.bytes >= (plan_.snapshot == Snapshot::fork ? page_size : least);
}

std::optional<TaskCopies::Copy> ForkSnapshot::copy(Candidate& candidate, FrozenTree& tree) {
  FrozenTask& task = *candidate.task;
  std::string why;
  try {
    why = headroom_.take(kernel::read_file_at(task.proc.get(), "cgroup"), candidate.bytes);
  } catch (const Error& error) {
    why = error.what();  // limits that can't be read, as of a cgroup outside our namespace
  }
  std::optional<TaskCopies::Copy> copy;
  if (why.empty()) copy = copies_.make(task, tree.reports(), &why);
  if (copy) return copy;
  log_.info("{} is written while it is frozen, not from a copy: {}", task.name(), why);
  if (obstacle_.empty()) obstacle_ = why;
  return std::nullopt;
}

void ForkSnapshot::take(FrozenTree& tree, PageCopier& now) {
  std::vector<FrozenTask*> chosen;
  for (const Candidate& candidate : candidates_)
    if (worthwhile(candidate)) chosen.push_back(candidate.task);
  if (!chosen.empty()) copies_.prepare(tree, chosen);
  for (Candidate& candidate : candidates_) {
    auto made = worthwhile(candidate) ? copy(candidate, tree) : std::nullopt;
    for (PageCopier::Piece& piece : candidate.pieces) {
      if (made) {
        // All its pages are shared with the task: see split_by_sharing().
        piece.through = PageCopier::Through::file;
        piece.pid = made->pid;
        piece.fd = made->mem;
      }
      (made ? later_ : now).add(piece);
    }
    if (made)
      made_.emplace_back(candidate.task->pid, made->pid);
    else
      areas_.verify(candidate.task->pid, candidate.task->proc.get(), false);
  }
  candidates_.clear();
}

void ForkSnapshot::save(const std::function<void(uint64_t)>& progress) {
  if (made_.empty()) return;
  for (auto [task, copy] : made_)
    areas_.verify(task, kernel::open(fmt::format("/proc/{}", copy), O_PATH | O_DIRECTORY).get(),
                  true);
  copies_.drop_shared_memory();
  later_.save(progress);
  copies_.end();
}

}  // namespace stasis::engine
