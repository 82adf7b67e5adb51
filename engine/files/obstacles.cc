#include "engine/files/obstacles.h"

#include <fmt/core.h>

#include <optional>

#include "engine/files/file_kind.h"
#include "engine/files/probe.h"
#include "kernel/fs.h"
#include "kernel/proc_misc.h"

namespace stasis::engine::files {

namespace {

// Descriptors come and go while the process runs: gone ones are no obstacle.
bool is_gone(const Error& error) {
  return error.code() == ENOENT || error.code() == ESRCH || error.code() == EBADF;
}

bool is_same(const Probe& a, const Probe& b) {
  return a.link == b.link && a.info.mnt_id == b.info.mnt_id && a.stat.stx_ino == b.stat.stx_ino &&
         a.info.flags == b.info.flags;
}

void look_at(pid_t pid, const Surroundings& around, std::vector<Finding>& findings) {
  std::string path = fmt::format("/proc/{}", pid);
  UniqueFd proc = kernel::open(path, O_PATH | O_DIRECTORY);
  UniqueFd list = kernel::open_at(proc.get(), "fd", O_RDONLY | O_DIRECTORY);
  for (int number : kernel::numeric_entries(list.get(), path + "/fd")) try {
      Probe probe = probe_descriptor(proc.get(), pid, number);
      auto objection = objection_to(probe, around);
      // Another file may have taken the number while we looked at it.
      if (!objection || !is_same(probe, probe_descriptor(proc.get(), pid, number))) continue;
      findings.push_back({process_name(pid), objection->what, objection->remedy});
    } catch (const Error& error) {
      if (!is_gone(error)) throw;
    }
}

}  // namespace

std::vector<Finding> obstacles(const std::vector<pid_t>& pids, const DumpPlan& plan) {
  std::vector<Finding> findings;
  std::optional<Surroundings> around;
  for (pid_t pid : pids) try {
      if (!around) around.emplace(plan);
      look_at(pid, *around, findings);
    } catch (const Error& error) {
      if (!is_gone(error)) throw;
    }
  return findings;
}

}  // namespace stasis::engine::files
