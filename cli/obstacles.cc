#include "cli/obstacles.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/syscall.h>

#include <filesystem>
#include <map>
#include <set>

#include "base/text.h"
#include "kernel/fs.h"
#include "kernel/proc_stat.h"

namespace stasis::cli {

namespace {

using mountmap::MapFinding;
using mountmap::Severity;

void add_pids(const std::filesystem::path& cgroup, std::set<pid_t>& pids) {
  std::string text = kernel::read_file(cgroup / "cgroup.procs");
  for (auto word : text::words(text))
    if (auto pid = text::to_int<pid_t>(word)) pids.insert(*pid);
}

// Of the cgroup and all below it.
std::set<pid_t> pids_in(const std::string& cgroup) {
  std::set<pid_t> pids;
  add_pids(cgroup, pids);
  std::error_code error;
  for (std::filesystem::recursive_directory_iterator at(cgroup, error), end; at != end && !error;
       at.increment(error))
    if (at->is_directory(error)) add_pids(at->path(), pids);
  return pids;
}

bool below(pid_t pid, pid_t init) {
  // A chain longer than any pid can be is a chain that changes under us.
  for (int steps = 0; pid > 1 && steps < 4096; ++steps) {
    if (pid == init) return true;
    auto stat = kernel::find_stat(pid);
    if (!stat) return true;  // ended: nothing to tell
    pid = stat->ppid;
  }
  return false;
}

// `runc exec` puts processes into the container's cgroup and namespaces, but
// they are children of the runtime: no tree that a restore could build.
void find_strangers(const std::string& cgroup, pid_t init, std::vector<MapFinding>& findings) {
  for (pid_t pid : pids_in(cgroup)) {
    auto stat = kernel::find_stat(pid);
    if (!stat || stat->state == 'Z' || below(pid, init)) continue;
    findings.push_back(
        {Severity::obstacle, fmt::format("process {} ({})", pid, stat->comm),
         "is in the container's cgroup but not below its init: brought in by `runc exec`",
         fmt::format("let it end, or end it: kill {}", pid)});
  }
}

// `runc start` takes this away.
bool not_started(const Container& container, const std::string& runc_root) {
  std::error_code error;
  return container.state &&
         std::filesystem::exists(fmt::format("{}/{}/exec.fifo", runc_root, container.id), error);
}

}  // namespace

std::vector<MapFinding> findings_of(const Container& container, const std::string& runc_root,
                                    const engine::DumpPlan* asked) {
  std::vector<MapFinding> findings = container.map.findings;
  if (container.init <= 0) return findings;
  if (not_started(container, runc_root)) {
    // What runs is still the runtime: its descriptors are nobody's concern.
    findings.push_back({Severity::obstacle, "container " + container.id,
                        "is created but not started", "runc start " + container.id});
    return findings;
  }
  engine::DumpPlan plan = asked ? *asked : build_dump_plan(container);
  if (!plan.freeze_cgroup.empty()) find_strangers(plan.freeze_cgroup, plan.root, findings);
  for (auto& obstacle : engine::obstacles(plan))
    findings.push_back({Severity::obstacle, obstacle.subject, obstacle.what, obstacle.remedy});
  return findings;
}

}  // namespace stasis::cli
