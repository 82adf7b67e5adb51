// Named pipes: a path like a regular file's, and content like a pipe's.
#include <fmt/core.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "engine/files/dumper.h"
#include "engine/files/pipe_data.h"
#include "engine/files/regular.h"
#include "engine/files/reopen.h"
#include "engine/files/restorer.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

namespace {

bool claims(const Probe& probe) {
  return probe.is(S_IFIFO) && probe.by_path() && !(probe.flags() & O_PATH);
}

void dump(Dumper& dumper, const OpenFile& file, image::FileEntry& entry) {
  image::FileEntry path;
  path.set_type(image::REG);
  path.set_id(dumper.next_id());
  describe_path(dumper, file, *path.mutable_reg(), path.id());
  image::FifoEntry& fifo = *entry.mutable_fifo();
  fifo.set_id(file.id);
  fifo.set_pipe_id(static_cast<uint32_t>(file.probe.stat.stx_ino));
  fifo.set_regf_id(path.id());
  dumper.add_entry(std::move(path));
}

UniqueFd make(Restorer& restorer, const image::FileEntry& entry) {
  const image::FifoEntry& fifo = entry.fifo();
  const image::RegFileEntry& path =
      restorer.entry(fifo.has_regf_id() ? fifo.regf_id() : fifo.id()).reg();
  UniqueFd node = find_path(restorer, path, S_IFIFO);
  // Open both ways a fifo never blocks, and then neither does the other opening.
  UniqueFd keeper = reopen(node.get(), O_RDWR | O_NONBLOCK, path.name());
  UniqueFd fd = reopen(node.get(), path.flags(), path.name());
  bool filled = restorer.fifos().contains(fifo.pipe_id());
  int waiting = 0;
  kernel::must(kernel::call(SYS_ioctl, keeper.get(), FIONREAD, &waiting), "look into", path.name());
  // What is there already was kept by somebody outside of the container.
  if (!filled && waiting == 0) refill_pipe(restorer, true, fifo.pipe_id(), keeper.get());
  // Without a reader or writer left the content would go: keep one.
  if (!filled) restorer.fifos()[fifo.pipe_id()] = std::move(keeper);
  restorer.restore_owner(fd.get(), path.fown());
  return fd;
}

}  // namespace

const FileKind fifo_kind = {"a named pipe", image::FIFO, claims, regular_objection, dump, make};

}  // namespace stasis::engine::files
