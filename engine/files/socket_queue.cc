#include "engine/files/socket_queue.h"

#include <fmt/core.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <cstring>

#include "base/scope_exit.h"
#include "engine/files/restorer.h"
#include "engine/files/socket_options.h"
#include "engine/image/image.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

namespace {

// Descriptors that a peek has put into our table.
void close_received(msghdr& message) {
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part; part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      kernel::call(SYS_close, fd);
    }
  }
}

// The next part of the queue; nothing at its end.
std::string peek(int fd, size_t most, const std::string& name) {
  std::string bytes(most, '\0');
  alignas(cmsghdr) char control[CMSG_SPACE(253 * sizeof(int))];  // SCM_MAX_FD
  iovec vector{bytes.data(), bytes.size()};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  long size = kernel::call(SYS_recvmsg, fd, &message, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (size == -EAGAIN) return {};
  kernel::must(size, "look into the queue of", name);
  bool travels = CMSG_FIRSTHDR(&message) != nullptr;
  close_received(message);
  if (travels)
    throw Error("dump", name)
        .because("descriptors or credentials wait in it to be received")
        .hint("try again when the program has received them");
  if (message.msg_flags & MSG_TRUNC) throw Error("dump", name).because("a message is too large");
  bytes.resize(static_cast<size_t>(size));
  return bytes;
}

void set_peek_offset(int fd, int offset) {
  kernel::must(kernel::call(SYS_setsockopt, fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset),
               "set the peek offset of", "a socket");
}

}  // namespace

void dump_socket_queue(image::ImageWriter& writer, int fd, uint32_t id, int type,
                       const std::string& name) {
  int room = 0;
  socklen_t size = sizeof room;
  kernel::must(kernel::call(SYS_getsockopt, fd, SOL_SOCKET, SO_SNDBUF, &room, &size), "look at",
               name);
  int waiting = 0;
  kernel::must(kernel::call(SYS_ioctl, fd, FIONREAD, &waiting), "look into the queue of", name);
  auto write_down = [&](const std::string& bytes) {
    image::SkPacketEntry entry;
    entry.set_id_for(id);
    entry.set_length(static_cast<uint32_t>(bytes.size()));
    writer.append("sk-queues", entry, bytes);
  };
  size_t most = static_cast<size_t>(std::max(room, waiting));
  std::string first = peek(fd, most, name);
  // A stream, or one message, is seen whole at once. More than one message
  // needs a mark in the socket: where the next look begins.
  if (type != SOCK_DGRAM && first.size() == static_cast<size_t>(waiting)) return write_down(first);
  int before = -1;
  kernel::must(kernel::call(SYS_getsockopt, fd, SOL_SOCKET, SO_PEEK_OFF, &before, &size), "look at",
               name);
  set_peek_offset(fd, 0);
  ScopeExit back(
      [&] { kernel::call(SYS_setsockopt, fd, SOL_SOCKET, SO_PEEK_OFF, &before, sizeof before); });
  for (std::string bytes; !(bytes = peek(fd, most, name)).empty();) write_down(bytes);
}

std::vector<SocketPacket> read_socket_queues(const image::ImageDir& dir) {
  std::vector<SocketPacket> packets;
  if (!dir.has("sk-queues")) return packets;
  image::Reader reader = dir.read("sk-queues");
  for (image::SkPacketEntry entry; reader.next(entry);)
    packets.push_back({entry, std::string(reader.payload(entry.length()))});
  return packets;
}

void refill_socket(Restorer& restorer, uint32_t id, int receiver, int sender) {
  bool roomy = false;
  for (const SocketPacket& packet : restorer.socket_packets()) {
    if (packet.entry.id_for() != id) continue;
    std::string name = fmt::format("socket (file {})", id);
    if (packet.entry.scm_size() != 0)
      throw Error("restore", name).because("descriptors travel in its queue");
    if (!roomy) make_room(sender), make_room(receiver);
    roomy = true;
    std::string_view rest = packet.bytes;
    while (!rest.empty()) {
      long sent = kernel::call(SYS_sendto, sender, rest.data(), rest.size(),
                               MSG_DONTWAIT | MSG_NOSIGNAL, nullptr, 0);
      rest.remove_prefix(static_cast<size_t>(kernel::must(sent, "refill", name)));
    }
  }
}

}  // namespace stasis::engine::files
