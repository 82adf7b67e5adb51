// Pipes: the two ends, how full, how large.
#include <fmt/core.h>
#include <sys/syscall.h>

#include "engine/files/dumper.h"
#include "engine/files/owner.h"
#include "engine/files/pipe_data.h"
#include "engine/files/reopen.h"
#include "engine/files/restorer.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

namespace {

bool claims(const Probe& probe) { return probe.is(S_IFIFO) && !probe.by_path(); }

void dump(Dumper& dumper, const OpenFile& file, image::FileEntry& entry) {
  image::PipeEntry& pipe = *entry.mutable_pipe();
  pipe.set_id(file.id);
  pipe.set_pipe_id(static_cast<uint32_t>(file.probe.stat.stx_ino));
  pipe.set_flags(file.probe.flags());
  *pipe.mutable_fown() = dump_owner(file.fd.get(), file.probe.flags(), dumper.plan().root);
}

UniqueFd from_inherited(int fd, uint32_t flags) {
  struct statx stat = kernel::stat_fd(fd);
  // A new open file keeps our flags from being changed for others. Files have
  // a position and sockets no second opening: those are shared.
  if (S_ISFIFO(stat.stx_mode) || S_ISCHR(stat.stx_mode))
    return reopen(fd, flags & ~static_cast<uint32_t>(O_DIRECT), "an inherited descriptor");
  return duplicate(fd);
}

// Both ends of the pipe, made and filled by the first that asks.
PipeEnds& ends_of(Restorer& restorer, uint32_t pipe_id) {
  auto [found, is_new] = restorer.pipes().try_emplace(pipe_id);
  PipeEnds& ends = found->second;
  if (!is_new) return ends;
  int fds[2];
  kernel::must(kernel::call(SYS_pipe2, fds, O_CLOEXEC | O_NONBLOCK | O_DIRECT), "make", "a pipe");
  ends.fd[0].reset(fds[0]);
  ends.fd[1].reset(fds[1]);
  bool packets = false;
  for (const auto& [id, entry] : restorer.entries())
    if (entry.type() == image::PIPE && entry.pipe().pipe_id() == pipe_id &&
        (entry.pipe().flags() & O_DIRECT))
      packets = true;
  if (!packets) set_status_flags(fds[1], O_NONBLOCK);
  refill_pipe(restorer, false, pipe_id, fds[1]);
  return ends;
}

UniqueFd make(Restorer& restorer, const image::FileEntry& entry) {
  const image::PipeEntry& pipe = entry.pipe();
  UniqueFd fd;
  if (int given = restorer.inherited(fmt::format("pipe:[{}]", pipe.pipe_id())); given >= 0) {
    fd = from_inherited(given, pipe.flags());
  } else {
    PipeEnds& ends = ends_of(restorer, pipe.pipe_id());
    uint32_t mode = pipe.flags() & O_ACCMODE;
    // pipe() itself makes one open file of each end, without O_LARGEFILE;
    // all others were opened through /proc, as here.
    bool original = mode != O_RDWR && !(pipe.flags() & O_LARGEFILE);
    bool& taken = ends.taken[mode == O_WRONLY];
    if (original && !taken) {
      fd = duplicate(ends.fd[mode == O_WRONLY].get());
      taken = true;
    } else {
      fd = reopen(ends.fd[0].get(), pipe.flags() & ~static_cast<uint32_t>(O_DIRECT), "a pipe");
    }
    set_status_flags(fd.get(), pipe.flags());
  }
  restorer.restore_owner(fd.get(), pipe.fown());
  return fd;
}

}  // namespace

const FileKind pipe_kind = {"a pipe", image::PIPE, claims, nullptr, dump, make};

}  // namespace stasis::engine::files
