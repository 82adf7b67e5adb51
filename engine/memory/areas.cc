#include "engine/memory/areas.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <tuple>

#include "base/text.h"
#include "engine/memory/pages.h"
#include "kernel/fs.h"

namespace stasis::engine {

namespace {

using kernel::MappedArea;
using kernel::VmFlags;

std::vector<MappedArea> read_smaps(int proc) {
  return kernel::parse_smaps(kernel::read_file_at(proc, "smaps"));
}

// But for flags.
bool same_layout(const std::vector<MappedArea>& a, const std::vector<MappedArea>& b) {
  auto key = [](const MappedArea& m) {
    return std::tie(m.start, m.end, m.prot, m.shared, m.offset, m.dev_major, m.dev_minor, m.inode,
                    m.path);
  };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [&](const MappedArea& x, const MappedArea& y) { return key(x) == key(y); });
}

// Flags that a copy has, too, of those that decide anything.
bool same_flags(const VmFlags& a, const VmFlags& b) {
  constexpr VmFlags::Code codes[] = {"sh", "mr", "mw", "me", "gd", "pf", "io", "sr", "rr", "nr",
                                     "ht", "wf", "dd", "hg", "nh", "mg", "ss", "sl", "dp"};
  return std::all_of(std::begin(codes), std::end(codes),
                     [&](const VmFlags::Code& code) { return a.has(code) == b.has(code); });
}

bool same_area(const MappedArea& a, const MappedArea& b, bool copy) {
  if (a.end != b.end || !same_flags(a.flags, b.flags)) return false;
  return copy || (a.flags.has("dc") == b.flags.has("dc") &&
                  a.flags.has("um") == b.flags.has("um") && a.flags.has("uw") == b.flags.has("uw"));
}

}  // namespace

AreasChanged::AreasChanged(pid_t pid, uint64_t address)
    : Error("checkpoint", fmt::format("process {}", pid)) {
  because(fmt::format("it gave advice on its memory at {:x} just when it was frozen", address));
  hint("try again");
}

void AreaReader::foresee(const DumpPlan& plan) {
  constexpr uint64_t much = (64 << 20) / page_size;
  std::vector<pid_t> pids{plan.root};
  if (!plan.freeze_cgroup.empty()) pids = Freezer::processes(plan.freeze_cgroup);
  for (pid_t pid : pids) {
    try {
      UniqueFd proc = kernel::open(fmt::format("/proc/{}", pid), O_PATH | O_DIRECTORY);
      std::string statm = kernel::read_file_at(proc.get(), "statm");
      auto resident = text::to_int<uint64_t>(text::words(statm).at(1));
      if (resident && *resident >= much) foreseen_[pid] = read_smaps(proc.get());
    } catch (const Error&) {
      // It ends, or changes too much to be foreseen.
    }
  }
}

std::vector<MappedArea> AreaReader::read(const FrozenTask& task) {
  auto found = foreseen_.find(task.pid);
  // Locked memory is locked no more in a copy, which therefore can't tell of it.
  if (found == foreseen_.end() || task.status.locked_kib != 0 ||
      !same_layout(kernel::parse_maps(kernel::read_file_at(task.proc.get(), "maps")),
                   found->second))
    return read_smaps(task.proc.get());
  return believed_[task.pid] = std::move(found->second);
}

void AreaReader::verify(pid_t pid, int proc, bool copy) const {
  auto found = believed_.find(pid);
  if (found == believed_.end()) return;
  std::vector<MappedArea> there = read_smaps(proc);
  for (const MappedArea& area : found->second) {
    auto same =
        std::lower_bound(there.begin(), there.end(), area.start,
                         [](const MappedArea& a, uint64_t start) { return a.start < start; });
    const bool missing = same == there.end() || same->start != area.start;
    const bool dropped = copy && area.flags.has("dc");
    if (missing != dropped || (!missing && !same_area(*same, area, copy)))
      throw AreasChanged(pid, area.start);
  }
}

}  // namespace stasis::engine
