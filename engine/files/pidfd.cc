// Pidfds, of processes of the container, living or dead.
#include <fmt/core.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/scope_exit.h"
#include "base/text.h"
#include "engine/files/dumper.h"
#include "engine/files/owner.h"
#include "engine/files/restorer.h"
#include "engine/image/checkpoint.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

namespace {

constexpr uint32_t of_thread = O_EXCL;  // PIDFD_THREAD
constexpr int32_t dead = -1;

bool claims(const Probe& probe) {
  return probe.link == "anon_inode:[pidfd]" || probe.link.starts_with("pidfd:[");
}

pid_t target_of(const Probe& probe) {
  const std::string* line = probe.info.find("Pid");
  auto pid = line ? text::to_int<pid_t>(*line) : std::nullopt;
  if (!pid) throw Error("read the process of", probe.described());
  return *pid;
}

std::optional<Objection> objection(const Probe& probe, const Surroundings& around) {
  if (probe.flags() & of_thread)
    return Objection{fmt::format("holds a pidfd of a thread open as descriptor {}", probe.number),
                     "close it; pidfds of whole processes can be written down"};
  pid_t pid = target_of(probe);
  if (pid == dead || (pid > 0 && pid_inside(around.plan().root, pid) > 0)) return std::nullopt;
  return Objection{
      fmt::format("holds a pidfd of a process outside of the container open as descriptor {}",
                  probe.number),
      "close it before the checkpoint"};
}

void dump(Dumper& dumper, const OpenFile& file, image::FileEntry& entry) {
  image::PidfdEntry& pidfd = *entry.mutable_pidfd();
  pidfd.set_id(file.id);
  // Dead processes are told apart by it (as far as the kernel does).
  pidfd.set_ino(static_cast<uint32_t>(file.probe.stat.stx_ino));
  pidfd.set_flags(file.probe.flags() & O_NONBLOCK);
  *pidfd.mutable_fown() = dump_owner(file.fd.get(), file.probe.flags(), dumper.plan().root);
  pid_t pid = target_of(file.probe);
  if (pid == dead) return pidfd.set_nspid(dead);
  pidfd.set_nspid(pid_inside(dumper.plan().root, pid));
  dumper.expect_process(pid, file.probe);
}

UniqueFd open_pidfd(pid_t pid, const image::PidfdEntry& entry) {
  long fd = kernel::call(SYS_pidfd_open, pid, entry.flags() & O_NONBLOCK);
  return UniqueFd(static_cast<int>(kernel::must(fd, "restore", "a pidfd")));
}

// A process that ends at once; all pidfds of one dead process are of one.
void open_dead(Restorer& restorer, uint32_t inode) {
  long pid = kernel::call(SYS_clone, 0, 0, 0, 0, 0);
  if (pid == 0) _exit(0);
  kernel::must(pid, "make", "a process that ends at once");
  ScopeExit reap([pid] { kernel::call(SYS_wait4, pid, nullptr, __WALL, nullptr); });
  for (const auto& [id, entry] : restorer.entries())
    if (entry.type() == image::PIDFD && entry.pidfd().nspid() == dead &&
        entry.pidfd().ino() == inode)
      restorer.dead_pidfds()[id] = open_pidfd(static_cast<pid_t>(pid), entry.pidfd());
}

UniqueFd make(Restorer& restorer, const image::FileEntry& entry) {
  const image::PidfdEntry& pidfd = entry.pidfd();
  if (pidfd.nspid() == dead) {
    if (!restorer.dead_pidfds().contains(entry.id())) open_dead(restorer, pidfd.ino());
    return std::move(restorer.dead_pidfds().at(entry.id()));
  }
  return restorer.later().open([&pidfd](const Pids& pids) {
    auto pid = pids.find(pidfd.nspid());
    if (pid == pids.end())
      throw Error("restore", fmt::format("a pidfd of process {}", pidfd.nspid()))
          .because("it isn't in the image");
    return open_pidfd(pid->second, pidfd);
  });
}

}  // namespace

const FileKind pidfd_kind = {"a pidfd", image::PIDFD, claims, objection, dump, make};

}  // namespace stasis::engine::files
