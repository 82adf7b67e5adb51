#include "engine/files/pipe_data.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/syscall.h>

#include <set>

#include "engine/files/dumper.h"
#include "engine/files/restorer.h"
#include "engine/image/checkpoint.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

namespace {

constexpr size_t page_size = 4096;

// Reads at most `size` bytes; of a packet pipe one packet.
std::string take(int fd, size_t size) {
  std::string bytes(size, '\0');
  long n = kernel::must(kernel::call(SYS_read, fd, bytes.data(), size), "read", "a pipe's copy");
  bytes.resize(static_cast<size_t>(n));
  return bytes;
}

// `packets`: keep the borders between writes.
void dump_pipe_data(image::ImageWriter& writer, const std::string& stem, uint32_t pipe_id,
                    int reader, bool packets) {
  long capacity = kernel::must(kernel::call(SYS_fcntl, reader, F_GETPIPE_SZ), "read the size of",
                               fmt::format("pipe {}", pipe_id));
  int fds[2];
  kernel::must(kernel::call(SYS_pipe2, fds, O_CLOEXEC | O_NONBLOCK), "make", "a pipe");
  UniqueFd out(fds[0]), in(fds[1]);
  kernel::must(kernel::call(SYS_fcntl, in.get(), F_SETPIPE_SZ, capacity), "set the size of",
               "a pipe's copy");
  long bytes = kernel::call(SYS_tee, reader, in.get(), capacity, SPLICE_F_NONBLOCK);
  if (bytes == -EAGAIN) bytes = 0;
  kernel::must(bytes, "copy the content of", fmt::format("pipe {}", pipe_id));
  in.reset();

  std::string content;
  auto write_down = [&](std::string_view part) {
    image::PipeDataEntry entry;
    entry.set_pipe_id(pipe_id);
    entry.set_bytes(static_cast<uint32_t>(part.size()));
    entry.set_size(static_cast<uint32_t>(capacity));
    writer.append(stem, entry, part);
  };
  bool any = false;
  for (size_t left = static_cast<size_t>(bytes); left > 0;) {
    std::string part = take(out.get(), packets ? page_size : left);
    if (part.empty()) throw Error("copy the content of", fmt::format("pipe {}", pipe_id));
    left -= part.size();
    if (packets)
      write_down(part);
    else
      content += part;
    any = packets;
  }
  if (!any) write_down(content);
}

}  // namespace

void dump_contents(image::ImageWriter& writer,
                   const std::vector<std::unique_ptr<OpenFile>>& files) {
  std::set<uint32_t> packets, pipes, fifos;
  for (const auto& file : files)
    if (file->kind == &pipe_kind && (file->probe.flags() & O_DIRECT))
      packets.insert(file->entry.pipe().pipe_id());
  for (const auto& file : files) {
    bool named = file->kind == &fifo_kind;
    if (!named && file->kind != &pipe_kind) continue;
    uint32_t id = named ? file->entry.fifo().pipe_id() : file->entry.pipe().pipe_id();
    if ((file->probe.flags() & O_ACCMODE) == O_WRONLY) continue;
    if (!(named ? fifos : pipes).insert(id).second) continue;
    dump_pipe_data(writer, named ? "fifo-data" : "pipes-data", id, file->fd.get(),
                   !named && packets.contains(id));
  }
}

void refill_pipe(Restorer& restorer, bool named, uint32_t pipe_id, int writer) {
  bool sized = false;
  for (const image::PipeData& data : named ? restorer.image().fifos : restorer.image().pipes) {
    if (data.entry.pipe_id() != pipe_id) continue;
    std::string name = fmt::format("pipe {}", pipe_id);
    if (data.entry.has_size() && !sized)
      kernel::must(kernel::call(SYS_fcntl, writer, F_SETPIPE_SZ, data.entry.size()),
                   "set the size of", name);
    sized = true;
    kernel::write_all(writer, data.bytes, name);
  }
}

}  // namespace stasis::engine::files
