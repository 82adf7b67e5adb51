// Unix sockets: what is written down of one. How they come back, all together,
// stands in unix_family.cc.
#include "engine/files/unix_socket.h"

#include <fmt/core.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>

#include "engine/files/dumper.h"
#include "engine/files/owner.h"
#include "engine/files/restorer.h"
#include "engine/files/socket_options.h"
#include "engine/files/unix_diag.h"
#include "engine/files/unix_family.h"
#include "engine/files/unix_name.h"
#include "engine/mounts/spaces.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

namespace {

constexpr int shut_both = 3;

bool claims(const Probe& probe) { return probe.protocol.starts_with("UNIX"); }

const UnixSocket* find_socket(const Probe& probe, const UnixSockets& sockets) {
  auto found = sockets.find(static_cast<uint32_t>(probe.stat.stx_ino));
  return found == sockets.end() ? nullptr : &found->second;
}

// A peer may be in another network namespace, as the host's own.
const UnixSocket* find_peer(uint32_t inode, const Surroundings& around) {
  for (const UnixSockets* all : {&around.unix_sockets(), &around.host_unix_sockets()})
    if (auto found = all->find(inode); found != all->end()) return &found->second;
  return nullptr;
}

// The one that listens, while a connection has not been accepted.
const UnixSocket* listener_of(uint32_t client, const UnixSockets& all) {
  for (const auto& [inode, socket] : all)
    if (std::count(socket.clients.begin(), socket.clients.end(), client)) return &socket;
  return nullptr;
}

Objection about(const Probe& probe, const std::string& trouble, const std::string& remedy) {
  return {fmt::format("holds a unix socket open as descriptor {}, {}", probe.number, trouble),
          remedy};
}

// What of a connection that nobody has accepted can't be seen from anywhere.
std::optional<Objection> unseen(const Probe& probe, const UnixSocket& socket,
                                const UnixSockets& all) {
  const char* remedy = "try again when the server has accepted the connection";
  if (socket.state == TCP_LISTEN && std::count(socket.clients.begin(), socket.clients.end(), 0U))
    return about(probe, "for which a connection waits that its client has closed already", remedy);
  bool lone = socket.type != SOCK_DGRAM && socket.state == TCP_ESTABLISHED && socket.peer == 0;
  if (!lone) return std::nullopt;
  if (const UnixSocket* listener = listener_of(socket.inode, all)) {
    if (socket.unread == 0) return std::nullopt;
    return about(probe,
                 fmt::format("which has sent something to {} before that one accepted the "
                             "connection",
                             shown_name(listener->name)),
                 remedy);
  }
  if (socket.shutdown == shut_both) return std::nullopt;
  return about(probe, "which waits to be accepted by a process outside of the container", remedy);
}

// What lasts: what waits to be accepted now won't be there at the freeze.
std::optional<Objection> objection(const Probe& probe, const Surroundings& around) {
  const UnixSocket* socket = find_socket(probe, around.unix_sockets());
  if (!socket) socket = find_socket(probe, around.unix_sockets(true));  // made since
  if (!socket)
    return about(probe, "of another network namespace than the container's",
                 "close it before the checkpoint");
  if (socket->peer != 0 && around.held_outside(socket->peer))
    return unix_peer_objection(probe, around);
  return std::nullopt;
}

void dump(Dumper& dumper, const OpenFile& file, image::FileEntry& entry) {
  const UnixSockets& all = dumper.around().unix_sockets();
  const UnixSocket* found = find_socket(file.probe, all);
  auto objection = found ? unseen(file.probe, *found, all)
                         : about(file.probe, "of another network namespace than the container's",
                                 "close it before the checkpoint");
  if (objection)
    throw Error("dump", process_name(file.probe.pid))
        .because("it " + objection->what)
        .hint(objection->remedy);
  const UnixSocket& socket = *found;
  image::UnixSkEntry& unix_entry = *entry.mutable_usk();
  unix_entry.set_id(file.id);
  unix_entry.set_ino(socket.inode);
  unix_entry.set_type(static_cast<uint32_t>(socket.type));
  unix_entry.set_state(static_cast<uint32_t>(socket.state));
  unix_entry.set_flags(file.probe.flags());
  unix_entry.set_uflags(0);
  unix_entry.set_backlog(socket.state == TCP_LISTEN ? socket.unread : 0);
  unix_entry.set_peer(socket.peer);
  if (socket.peer == 0 && socket.state == TCP_ESTABLISHED)
    if (const UnixSocket* listener = listener_of(socket.inode, all))
      unix_entry.set_peer(listener->inode);
  describe_name(dumper, file, socket.name, unix_entry);
  unix_entry.set_ns_id(dumper.network_id());
  unix_entry.set_shutdown(static_cast<image::SkShutdown>(socket.shutdown));
  *unix_entry.mutable_fown() = dump_owner(file.fd.get(), file.probe.flags(), dumper.plan().root);
  *unix_entry.mutable_opts() = dump_socket_options(file.fd.get());
  if (socket.lost_peer && socket.type == SOCK_DGRAM)
    dumper.unix_more(socket.inode).set_lost_peer(true);
  for (uint32_t client : socket.clients) dumper.unix_more(socket.inode).add_clients(client);
}

UniqueFd make(Restorer& restorer, const image::FileEntry& entry) {
  return restorer.unix_family().take(entry.usk().ino());
}

bool same_file(int fd, const UnixSocket& socket) {
  struct statx stat = kernel::stat_fd(fd);
  return S_ISSOCK(stat.stx_mode) && static_cast<uint32_t>(stat.stx_ino) == socket.file_inode;
}

// Where the container sees the file that the socket is bound to; else the name
// that it was bound by, which others may see by that name.
std::string seen_inside(const UnixSocket& socket, const Surroundings& around) {
  if (socket.name.empty() || is_abstract(socket.name)) return socket.name;
  std::string name = shown_name(socket.name);
  const mounts::Space space = mounts::spaces_of(around.plan()).front();
  auto leads = [&](const std::string& path) {
    long fd = kernel::try_open_in(around.root(space), path.substr(1), O_PATH | O_NOFOLLOW,
                                  RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
    if (fd < 0) return false;
    UniqueFd found(static_cast<int>(fd));
    return same_file(found.get(), socket);
  };
  // Only file systems that hold it are asked: others could keep us waiting.
  for (const mountmap::Mount& mount : space.table->mounts()) {
    if (mount.major != socket.file_major || mount.minor != socket.file_minor) continue;
    std::string below = mount.mountpoint == "/" ? "" : mount.mountpoint;
    if (!below.empty() && leads(below)) return below;
    for (size_t slash = name.find('/'); slash != name.npos; slash = name.find('/', slash + 1))
      if (leads(below + name.substr(slash))) return below + name.substr(slash);
  }
  return name;
}

}  // namespace

std::optional<Objection> unix_peer_objection(const Probe& probe, const Surroundings& around) {
  const UnixSocket* socket = find_socket(probe, around.unix_sockets());
  uint32_t inode = static_cast<uint32_t>(probe.stat.stx_ino);
  if (!socket || around.plan().external_unix.contains(inode)) return std::nullopt;
  const UnixSocket* peer = find_peer(socket->peer, around);
  bool by_name = socket->type == SOCK_DGRAM && peer && !peer->name.empty();
  if (by_name && around.plan().ext_unix_sk) return std::nullopt;
  std::string holder;
  if (auto pid = around.held_outside(socket->peer)) holder = " of " + process_name(*pid);
  std::string remedy =
      by_name ? "allow it to be connected again by name (--ext-unix-sk)"
              : fmt::format(
                    "close the connection before the checkpoint, or allow it to be "
                    "replaced (--external 'unix[{}]') and restore with --ext-unix-sk or "
                    "--inherit-fd 'fd[N]:socket:[{}]'",
                    inode, inode);
  return about(
      probe,
      fmt::format("connected to {}{}, outside of the container",
                  peer && !peer->name.empty() ? shown_name(peer->name) : "a socket without a name",
                  holder),
      remedy);
}

image::FileEntry unix_peer_outside(uint32_t id, uint32_t inode, const Surroundings& around) {
  const UnixSocket* peer = find_peer(inode, around);
  image::FileEntry entry;
  entry.set_type(image::UNIXSK);
  entry.set_id(id);
  image::UnixSkEntry& outside = *entry.mutable_usk();
  outside.set_id(id);
  outside.set_ino(inode);
  outside.set_type(SOCK_DGRAM);
  outside.set_state(TCP_LISTEN);
  outside.set_flags(0);
  outside.set_uflags(unix_outside);
  outside.set_backlog(0);
  outside.set_peer(0);
  outside.set_name(peer ? seen_inside(*peer, around) : "");
  image::FownEntry& owner = *outside.mutable_fown();
  owner.set_uid(0), owner.set_euid(0), owner.set_signum(0);
  owner.set_pid_type(0), owner.set_pid(0);
  image::SkOptsEntry& options = *outside.mutable_opts();
  options.set_so_sndbuf(0), options.set_so_rcvbuf(0);
  options.set_so_snd_tmo_sec(0), options.set_so_snd_tmo_usec(0);
  options.set_so_rcv_tmo_sec(0), options.set_so_rcv_tmo_usec(0);
  return entry;
}

const FileKind unix_kind = {"a unix socket", image::UNIXSK, claims, objection, dump, make};

}  // namespace stasis::engine::files
