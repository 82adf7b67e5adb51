#include "engine/files/unix_peers.h"

#include <fmt/core.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "base/scope_exit.h"
#include "engine/files/dumper.h"
#include "engine/tasks/namesake.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

namespace {

constexpr uint32_t nobody = UINT32_MAX;

// SO_PEERCRED as a process of the container reads it: only in its pid namespace
// are the ids told of those who have ended.
void read_credentials(pid_t root, const std::vector<const OpenFile*>& sockets, ucred* result) {
  UniqueFd pids = kernel::open(fmt::format("/proc/{}/ns/pid", root), O_RDONLY);
  long read = as_process(pids.get(), 0, [&]() -> long {
    for (size_t i = 0; i < sockets.size(); ++i) {
      socklen_t size = sizeof(ucred);
      long one = kernel::call(SYS_getsockopt, sockets[i]->fd.get(), SOL_SOCKET, SO_PEERCRED,
                              &result[i], &size);
      if (one < 0) return one;
    }
    return 0;
  });
  kernel::must(read, "read who is at the other end of", "unix sockets");
}

}  // namespace

void describe_peers(Dumper& dumper, const std::vector<std::unique_ptr<OpenFile>>& files) {
  std::vector<const OpenFile*> sockets;
  for (const auto& file : files)
    if (file->kind == &unix_kind) sockets.push_back(file.get());
  if (sockets.empty()) return;
  size_t bytes = sockets.size() * sizeof(ucred);
  long at = kernel::must(
      kernel::call(SYS_mmap, 0, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0),
      "make shared memory");
  ScopeExit unmap([&] { kernel::call(SYS_munmap, at, bytes); });
  auto* credentials = reinterpret_cast<ucred*>(at);
  read_credentials(dumper.plan().root, sockets, credentials);
  for (size_t i = 0; i < sockets.size(); ++i) {
    const ucred& peer = credentials[i];
    auto uid = dumper.ids().find_uid_inside(peer.uid), gid = dumper.ids().find_gid_inside(peer.gid);
    if (peer.uid == nobody || !uid || !gid) continue;
    image::UnixDoerEntry& entry = *dumper.unix_more(sockets[i]->entry.usk().ino()).mutable_peer();
    entry.set_pid(static_cast<uint32_t>(peer.pid));
    entry.set_uid(*uid);
    entry.set_gid(*gid);
  }
}

}  // namespace stasis::engine::files
