#include "engine/files/unix_diag.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <cstring>
#include <vector>

#include "engine/namespaces/namespaces.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

namespace {

template <typename T>
T read_as(std::string_view bytes) {
  T value{};
  if (bytes.size() < sizeof value)
    throw Error("list", "unix sockets").because("the kernel's answer is too short");
  bytes.copy(reinterpret_cast<char*>(&value), sizeof value);
  return value;
}

void ask(int socket) {
  struct {
    nlmsghdr header;
    unix_diag_req request;
  } message{};
  message.header.nlmsg_len = sizeof message;
  message.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  message.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  message.request.sdiag_family = AF_UNIX;
  message.request.udiag_states = ~0U;
  message.request.udiag_show =
      UDIAG_SHOW_NAME | UDIAG_SHOW_VFS | UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS | UDIAG_SHOW_RQLEN;
  kernel::must(kernel::call(SYS_sendto, socket, &message, sizeof message, 0, nullptr, 0), "ask for",
               "the unix sockets");
}

// False after the last message.
bool take(std::string_view datagram, UnixSockets& sockets) {
  while (!datagram.empty()) {
    auto header = read_as<nlmsghdr>(datagram);
    if (header.nlmsg_len < sizeof header || header.nlmsg_len > datagram.size())
      throw Error("list", "unix sockets").because("the kernel's answer is cut off");
    std::string_view body = datagram.substr(NLMSG_HDRLEN, header.nlmsg_len - NLMSG_HDRLEN);
    if (header.nlmsg_type == NLMSG_DONE) return false;
    if (header.nlmsg_type == NLMSG_ERROR)
      throw Error("list", "unix sockets").with_errno(-read_as<nlmsgerr>(body).error);
    UnixSocket socket = parse_unix_socket(body);
    sockets[socket.inode] = socket;
    datagram.remove_prefix(std::min<size_t>(NLMSG_ALIGN(header.nlmsg_len), datagram.size()));
  }
  return true;
}

void read_file(const unix_diag_vfs& file, UnixSocket& socket) {
  constexpr unsigned minor_bits = 20;  // as the kernel keeps device numbers itself
  socket.file_inode = file.udiag_vfs_ino;
  socket.file_major = file.udiag_vfs_dev >> minor_bits;
  socket.file_minor = file.udiag_vfs_dev & ((1U << minor_bits) - 1);
}

}  // namespace

UnixSocket parse_unix_socket(std::string_view message) {
  auto head = read_as<unix_diag_msg>(message);
  UnixSocket socket;
  socket.inode = head.udiag_ino;
  socket.type = head.udiag_type;
  socket.state = head.udiag_state;
  message.remove_prefix(std::min<size_t>(NLMSG_ALIGN(sizeof head), message.size()));
  while (message.size() >= sizeof(rtattr)) {
    auto attribute = read_as<rtattr>(message);
    if (attribute.rta_len < sizeof attribute || attribute.rta_len > message.size())
      throw Error("list", "unix sockets").because("the kernel's answer is cut off");
    std::string_view value = message.substr(RTA_LENGTH(0), attribute.rta_len - RTA_LENGTH(0));
    switch (attribute.rta_type) {
      case UNIX_DIAG_NAME:
        socket.name = value;
        break;
      case UNIX_DIAG_PEER:
        socket.peer = read_as<uint32_t>(value);
        socket.lost_peer = socket.peer == 0;
        break;
      case UNIX_DIAG_RQLEN:
        socket.waiting = read_as<unix_diag_rqlen>(value).udiag_rqueue;
        socket.unread = read_as<unix_diag_rqlen>(value).udiag_wqueue;
        break;
      case UNIX_DIAG_VFS:
        read_file(read_as<unix_diag_vfs>(value), socket);
        break;
      case UNIX_DIAG_ICONS:
        for (; value.size() >= sizeof(uint32_t); value.remove_prefix(sizeof(uint32_t)))
          socket.clients.push_back(read_as<uint32_t>(value));
        break;
      case UNIX_DIAG_SHUTDOWN:
        socket.shutdown = read_as<uint8_t>(value);
        break;
      default:
        break;
    }
    message.remove_prefix(std::min<size_t>(RTA_ALIGN(attribute.rta_len), message.size()));
  }
  return socket;
}

UnixSockets list_unix_sockets(pid_t pid) {
  UniqueFd socket;
  auto open = [&] {
    long made = kernel::call(SYS_socket, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    socket.reset(static_cast<int>(kernel::must(made, "open", "a sock_diag socket")));
  };
  if (pid == 0)
    open();
  else
    namespaces::in_namespaces(kernel::pidfd_open(pid).get(), CLONE_NEWNET, open);
  ask(socket.get());
  UnixSockets sockets;
  std::vector<char> buffer(1 << 16);
  for (;;) {
    long size =
        kernel::call(SYS_recvfrom, socket.get(), buffer.data(), buffer.size(), 0, nullptr, nullptr);
    kernel::must(size, "list", "unix sockets");
    if (!take({buffer.data(), static_cast<size_t>(size)}, sockets)) return sockets;
  }
}

}  // namespace stasis::engine::files
