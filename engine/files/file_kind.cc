#include "engine/files/file_kind.h"

#include <fmt/core.h>
#include <sys/syscall.h>

#include <array>

#include "engine/files/locks.h"
#include "engine/files/probe.h"
#include "engine/files/standing.h"
#include "engine/files/unsupported.h"
#include "engine/mounts/view.h"
#include "engine/plan.h"
#include "engine/tasks/freezer.h"
#include "kernel/fs.h"
#include "kernel/proc_misc.h"

namespace stasis::engine::files {

namespace {

// The first that claims a descriptor has it.
constexpr std::array<const FileKind*, 16> kinds = {
    &pipe_kind,   &eventfd_kind,  &timerfd_kind, &signalfd_kind, &epoll_kind,   &unix_kind,
    &inet_kind,   &netlink_kind,  &packet_kind,  &memfd_kind,    &inotify_kind, &pidfd_kind,
    &nsfile_kind, &terminal_kind, &fifo_kind,    &regular_kind,
};

// Inodes. Descriptors and processes come and go: what is gone has none.
std::vector<uint64_t> sockets_of(pid_t pid) {
  std::vector<uint64_t> inodes;
  try {
    std::string path = fmt::format("/proc/{}/fd", pid);
    UniqueFd list = kernel::open(path, O_RDONLY | O_DIRECTORY);
    for (int number : kernel::numeric_entries(list.get(), path)) {
      struct stat stat{};
      long result =
          kernel::call(SYS_newfstatat, list.get(), std::to_string(number).c_str(), &stat, 0);
      if (result == 0 && S_ISSOCK(stat.st_mode)) inodes.push_back(stat.st_ino);
    }
  } catch (const Error&) {
  }
  return inodes;
}

}  // namespace

Surroundings::Surroundings(const DumpPlan& plan) : plan_(plan) {
  roots_[plan.root] = open_container_root(plan);
}

int Surroundings::root(const mounts::Space& space) const {
  UniqueFd& root = roots_[space.pid];
  if (!root.valid()) root = mounts::open_root(space);
  return root.get();
}

int Surroundings::view(const mounts::Place& place) const {
  UniqueFd& view = views_[place.mount->id];
  if (!view.valid()) view = std::move(mounts::open_views(place.space, {place.mount}).front());
  return view.get();
}

const UnixSockets& Surroundings::unix_sockets(bool anew) const {
  if (!unix_sockets_ || anew) unix_sockets_ = list_unix_sockets(plan_.root);
  return *unix_sockets_;
}

const PtyEnds& Surroundings::ptys() const {
  if (!ptys_) ptys_ = list_ptys(plan_);
  return *ptys_;
}

const UnixSockets& Surroundings::host_unix_sockets() const {
  if (!host_unix_sockets_) host_unix_sockets_ = list_unix_sockets(0);
  return *host_unix_sockets_;
}

std::optional<pid_t> Surroundings::held_outside(uint32_t inode) const {
  constexpr pid_t inside = 0;
  if (holders_.empty()) {
    for (int pid :
         kernel::numeric_entries(kernel::open("/proc", O_RDONLY | O_DIRECTORY).get(), "/proc"))
      for (uint64_t socket : sockets_of(pid)) holders_.emplace(socket, pid);
    std::vector<pid_t> ours{plan_.root};
    if (!plan_.freeze_cgroup.empty()) ours = Freezer::processes(plan_.freeze_cgroup);
    for (pid_t pid : ours)
      for (uint64_t socket : sockets_of(pid)) holders_[socket] = inside;
  }
  auto found = holders_.find(inode);
  if (found == holders_.end() || found->second == inside) return std::nullopt;
  return found->second;
}

std::span<const FileKind* const> file_kinds() { return kinds; }

const FileKind* kind_of(const Probe& probe) {
  for (const FileKind* kind : kinds)
    if (kind->claims(probe)) return kind;
  return nullptr;
}

const FileKind* kind_of(image::FdTypes type) {
  for (const FileKind* kind : kinds)
    if (kind->type == type) return kind;
  return nullptr;
}

std::optional<Objection> objection_to(const Probe& probe) {
  const FileKind* kind = kind_of(probe);
  return kind ? std::nullopt : std::optional(unsupported(probe));
}

std::optional<Objection> objection_to(const Probe& probe, const Surroundings& around) {
  if (auto objection = objection_to(probe)) return objection;
  if (auto objection = lock_objection(probe, around.plan())) return objection;
  const FileKind* kind = kind_of(probe);
  return kind->objection ? kind->objection(probe, around) : std::nullopt;
}

}  // namespace stasis::engine::files
