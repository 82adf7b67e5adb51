// Which ends of pseudoterminals the container's processes hold.
#include "engine/files/pty.h"

#include <fmt/core.h>
#include <sys/sysmacros.h>

#include <algorithm>

#include "base/text.h"
#include "engine/files/reopen.h"
#include "engine/mounts/spaces.h"
#include "engine/tasks/freezer.h"
#include "kernel/fs.h"
#include "kernel/proc_misc.h"
#include "kernel/tty.h"

namespace stasis::engine::files {

namespace {

// Processes and descriptors come and go while the container runs.
bool is_gone(const Error& error) {
  return error.code() == ENOENT || error.code() == ESRCH || error.code() == EBADF;
}

void add_children(pid_t pid, std::vector<pid_t>& pids) {
  std::string path = fmt::format("/proc/{}/task", pid);
  UniqueFd threads = kernel::open(path, O_RDONLY | O_DIRECTORY);
  for (int tid : kernel::numeric_entries(threads.get(), path)) {
    std::string children = kernel::read_file_at(threads.get(), fmt::format("{}/children", tid));
    for (std::string_view child : text::words(children))
      if (auto number = text::to_int<pid_t>(child)) pids.push_back(*number);
  }
}

std::vector<pid_t> processes(const DumpPlan& plan) {
  std::vector<pid_t> pids;
  if (!plan.freeze_cgroup.empty()) pids = Freezer::processes(plan.freeze_cgroup);
  if (!pids.empty()) return pids;
  pids.push_back(plan.root);
  for (size_t i = 0; i < pids.size(); ++i) try {
      add_children(pids[i], pids);
    } catch (const Error& error) {
      if (!is_gone(error)) throw;
    }
  return pids;
}

bool is_devpts(const mountmap::Mount* mount) { return mount && mount->fstype == "devpts"; }

uint64_t device_of(const mountmap::Mount& mount) { return makedev(mount.major, mount.minor); }

// The kernel looks for the instance of a ptmx that isn't in one beside it.
std::optional<uint64_t> instance_of_master(const Probe& probe, const DumpPlan& plan) {
  const mounts::Place place = mounts::find_mount(plan, probe.info.mnt_id);
  if (!place.mount) return std::nullopt;
  if (is_devpts(place.mount)) return probe.device();
  std::string directory = probe.link.substr(0, probe.link.rfind('/'));
  const mountmap::Mount* beside = place.space.table->at(directory + "/pts");
  if (is_devpts(beside)) return device_of(*beside);
  return std::nullopt;
}

void add_ends(pid_t pid, const DumpPlan& plan, PtyEnds& ends) {
  std::string path = fmt::format("/proc/{}", pid);
  UniqueFd proc = kernel::open(path, O_PATH | O_DIRECTORY);
  UniqueFd list = kernel::open_at(proc.get(), "fd", O_RDONLY | O_DIRECTORY);
  for (int number : kernel::numeric_entries(list.get(), path + "/fd")) try {
      std::string link = kernel::read_link_at(list.get(), std::to_string(number));
      if (!link.starts_with("/")) continue;
      Probe probe = probe_descriptor(proc.get(), pid, number);
      auto id = pty_of(probe, plan);
      if (id && is_pty_master(probe)) ends.masters.insert(*id);
      if (id && is_pty_slave(probe) && !was_deleted(probe)) ends.slaves.insert(*id);
    } catch (const Error& error) {
      if (!is_gone(error)) throw;
    }
}

}  // namespace

bool is_pty_master(const Probe& probe) {
  return probe.is(S_IFCHR) && probe.stat.stx_rdev_major == kernel::tty_major &&
         probe.stat.stx_rdev_minor == kernel::ptmx_minor && !(probe.flags() & O_PATH);
}

bool is_pty_slave(const Probe& probe) {
  return probe.is(S_IFCHR) && probe.stat.stx_rdev_major == kernel::pty_slave_major &&
         !(probe.flags() & O_PATH);
}

bool is_current_tty(const Probe& probe) {
  return probe.is(S_IFCHR) && probe.stat.stx_rdev_major == kernel::tty_major &&
         probe.stat.stx_rdev_minor == kernel::current_tty_minor && !(probe.flags() & O_PATH);
}

bool was_deleted(const Probe& probe) {
  return probe.stat.stx_nlink == 0 || probe.link.ends_with(" (deleted)");
}

std::optional<PtyId> pty_of(const Probe& probe, const DumpPlan& plan) {
  if (is_pty_slave(probe)) return PtyId{probe.device(), probe.stat.stx_rdev_minor};
  if (!is_pty_master(probe)) return std::nullopt;
  const std::string* shown = probe.info.find("tty-index");
  auto index = shown ? text::to_int<unsigned>(text::trim(*shown)) : std::nullopt;
  auto instance = instance_of_master(probe, plan);
  if (!index || !instance) return std::nullopt;
  return PtyId{*instance, *index};
}

bool is_own_instance(uint64_t device, const DumpPlan& plan) {
  for (const mounts::Space& space : mounts::spaces_of(plan))
    for (const mountmap::Mount& mount : space.table->mounts())
      if (is_devpts(&mount) && device_of(mount) == device) return true;
  return false;
}

std::vector<PtyId> PtyEnds::orphans(const DumpPlan& plan) const {
  std::vector<PtyId> result;
  for (const PtyId& id : slaves)
    if (!masters.contains(id) && is_own_instance(id.first, plan)) result.push_back(id);
  return result;
}

PtyEnds list_ptys(const DumpPlan& plan) {
  PtyEnds ends;
  for (pid_t pid : processes(plan)) try {
      add_ends(pid, plan, ends);
    } catch (const Error& error) {
      if (!is_gone(error)) throw;
    }
  return ends;
}

UniqueFd open_ptmx(int node, unsigned index) {
  std::vector<UniqueFd> others;
  for (;;) {
    UniqueFd master = reopen(node, O_RDWR, "ptmx");
    auto got = static_cast<unsigned>(kernel::pty_index(master.get()));
    if (got == index) return master;
    if (got > index)
      throw Error("restore the terminal", fmt::format("/dev/pts/{}", index))
          .because("another one has its number already");
    others.push_back(std::move(master));
  }
}

}  // namespace stasis::engine::files
