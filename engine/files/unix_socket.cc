// Unix sockets that nobody outside can have: pairs without a name whose ends
// are both in the container, and sockets not connected yet.
#include <fmt/core.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "engine/files/dumper.h"
#include "engine/files/owner.h"
#include "engine/files/reopen.h"
#include "engine/files/restorer.h"
#include "engine/files/socket_options.h"
#include "engine/files/socket_queue.h"
#include "engine/files/unix_diag.h"
#include "engine/image/checkpoint.h"
#include "engine/namespaces/namespaces.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

namespace {

constexpr int shut_both = 3;

bool claims(const Probe& probe) { return probe.protocol.starts_with("UNIX"); }

// A stream whose other end was closed: what it sent can still be read.
bool is_half(const UnixSocket& socket) {
  return socket.type != SOCK_DGRAM && socket.state == TCP_ESTABLISHED && socket.peer == 0 &&
         socket.shutdown == shut_both;
}

std::string trouble_with(const UnixSocket& socket, const UnixSockets& all) {
  if (socket.state == TCP_LISTEN) return "that listens for connections";
  if (!socket.name.empty()) {
    std::string name = socket.name.front() == '\0' ? "@" + socket.name.substr(1) : socket.name;
    return fmt::format("bound to the name {}", name.c_str());
  }
  if (socket.peer != 0) {
    auto peer = all.find(socket.peer);
    if (peer == all.end() || peer->second.peer != socket.inode || !peer->second.name.empty())
      return "connected to a socket outside of the container or with a name";
    return {};
  }
  if (is_half(socket)) return {};
  bool unused = socket.state == TCP_CLOSE && socket.waiting == 0 && socket.shutdown == 0;
  return unused ? "" : "in a state that cannot be made again";
}

const UnixSocket* find_socket(const Probe& probe, const UnixSockets& sockets) {
  auto found = sockets.find(static_cast<uint32_t>(probe.stat.stx_ino));
  return found == sockets.end() ? nullptr : &found->second;
}

std::optional<Objection> objection(const Probe& probe, const Surroundings& around) {
  const UnixSocket* socket = find_socket(probe, around.unix_sockets());
  std::string trouble = socket ? trouble_with(*socket, around.unix_sockets())
                               : "of another network namespace than the container's";
  if (trouble.empty()) return std::nullopt;
  return Objection{
      fmt::format("holds a unix socket open as descriptor {}, {}", probe.number, trouble),
      "close it before the checkpoint; such sockets cannot be written down yet"};
}

void dump(Dumper& dumper, const OpenFile& file, image::FileEntry& entry) {
  if (auto trouble = objection(file.probe, dumper.around()))
    throw Error("dump", process_name(file.probe.pid))
        .because("it " + trouble->what)
        .hint(trouble->remedy);
  const UnixSocket& socket = *find_socket(file.probe, dumper.around().unix_sockets());
  image::UnixSkEntry& unix_entry = *entry.mutable_usk();
  unix_entry.set_id(file.id);
  unix_entry.set_ino(socket.inode);
  unix_entry.set_type(static_cast<uint32_t>(socket.type));
  unix_entry.set_state(static_cast<uint32_t>(socket.state));
  unix_entry.set_flags(file.probe.flags());
  unix_entry.set_uflags(0);
  unix_entry.set_backlog(0);
  unix_entry.set_peer(socket.peer);
  unix_entry.set_name("");
  unix_entry.set_ns_id(dumper.network_id());
  unix_entry.set_shutdown(static_cast<image::SkShutdown>(socket.shutdown));
  *unix_entry.mutable_fown() = dump_owner(file.fd.get(), file.probe.flags(), dumper.plan().root);
  *unix_entry.mutable_opts() = dump_socket_options(file.fd.get());
  if (socket.waiting != 0)
    dump_socket_queue(dumper.writer(), file.fd.get(), file.id, socket.type, file.probe.described());
  if (socket.peer != 0) dumper.expect_socket(socket.peer, file.probe);
}

const image::UnixSkEntry* entry_of(const Restorer& restorer, uint32_t inode) {
  for (const auto& [id, entry] : restorer.entries())
    if (entry.type() == image::UNIXSK && entry.usk().ino() == inode) return &entry.usk();
  return nullptr;
}

void shut_down(int fd, const image::UnixSkEntry& entry) {
  if (entry.shutdown() == image::NONE) return;
  kernel::must(kernel::call(SYS_shutdown, fd, static_cast<int>(entry.shutdown()) - 1), "shut down",
               "a unix socket");
}

// Both ends, with what waits in them.
void make_pair(Restorer& restorer, const image::UnixSkEntry& one) {
  const image::UnixSkEntry* other = one.peer() ? entry_of(restorer, one.peer()) : nullptr;
  if (one.peer() != 0 && (!other || other->peer() != one.ino() || !other->name().empty()))
    throw Error("restore", fmt::format("unix socket {}", one.ino()))
        .because("its peer is not in the image");
  int fds[2] = {-1, -1};
  restorer.in_network([&] {
    kernel::must(kernel::call(SYS_socketpair, AF_UNIX, one.type() | SOCK_CLOEXEC, 0, fds), "make",
                 "a pair of unix sockets");
  });
  UniqueFd mine(fds[0]), its(fds[1]);
  refill_socket(restorer, one.id(), mine.get(), its.get());
  if (other) {
    refill_socket(restorer, other->id(), its.get(), mine.get());
    shut_down(its.get(), *other);
    restorer.sockets()[other->ino()] = std::move(its);
  } else {
    its.reset();
  }
  shut_down(mine.get(), one);
  restorer.sockets()[one.ino()] = std::move(mine);
}

UniqueFd make(Restorer& restorer, const image::FileEntry& entry) {
  const image::UnixSkEntry& socket = entry.usk();
  if (!socket.name().empty() || socket.state() == TCP_LISTEN)
    throw Error("restore", fmt::format("unix socket {}", socket.ino()))
        .because("sockets with a name are not supported yet");
  UniqueFd fd;
  if (socket.peer() == 0 && socket.state() == TCP_CLOSE) {
    restorer.in_network([&] {
      long made = kernel::call(SYS_socket, AF_UNIX, socket.type() | SOCK_CLOEXEC, 0);
      fd.reset(static_cast<int>(kernel::must(made, "make", "a unix socket")));
    });
  } else {
    if (!restorer.sockets().contains(socket.ino())) make_pair(restorer, socket);
    fd = std::move(restorer.sockets()[socket.ino()]);
  }
  restore_socket_options(fd.get(), socket.opts());
  set_status_flags(fd.get(), socket.flags());
  restorer.restore_owner(fd.get(), socket.fown());
  return fd;
}

}  // namespace

const FileKind unix_kind = {"a unix socket", image::UNIXSK, claims, objection, dump, make};

}  // namespace stasis::engine::files
