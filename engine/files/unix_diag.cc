#include "engine/files/unix_diag.h"

#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sys/socket.h>

#include "engine/files/sock_diag.h"

namespace stasis::engine::files {

namespace {

void read_file(const unix_diag_vfs& file, UnixSocket& socket) {
  constexpr unsigned minor_bits = 20;  // as the kernel keeps device numbers itself
  socket.file_inode = file.udiag_vfs_ino;
  socket.file_major = file.udiag_vfs_dev >> minor_bits;
  socket.file_minor = file.udiag_vfs_dev & ((1U << minor_bits) - 1);
}

}  // namespace

UnixSocket parse_unix_socket(std::string_view message) {
  auto head = kernel::value_of<unix_diag_msg>(message);
  UnixSocket socket;
  socket.inode = head.udiag_ino;
  socket.type = head.udiag_type;
  socket.state = head.udiag_state;
  kernel::each_attribute(message.substr(sizeof head), [&](uint16_t type, std::string_view value) {
    switch (type) {
      case UNIX_DIAG_NAME:
        socket.name = value;
        break;
      case UNIX_DIAG_PEER:
        socket.peer = kernel::value_of<uint32_t>(value);
        socket.lost_peer = socket.peer == 0;
        break;
      case UNIX_DIAG_RQLEN:
        socket.waiting = kernel::value_of<unix_diag_rqlen>(value).udiag_rqueue;
        socket.unread = kernel::value_of<unix_diag_rqlen>(value).udiag_wqueue;
        break;
      case UNIX_DIAG_VFS:
        read_file(kernel::value_of<unix_diag_vfs>(value), socket);
        break;
      case UNIX_DIAG_ICONS:
        for (; value.size() >= sizeof(uint32_t); value.remove_prefix(sizeof(uint32_t)))
          socket.clients.push_back(kernel::value_of<uint32_t>(value));
        break;
      case UNIX_DIAG_SHUTDOWN:
        socket.shutdown = kernel::value_of<uint8_t>(value);
        break;
      default:
        break;
    }
  });
  return socket;
}

UnixSockets list_unix_sockets(pid_t pid) {
  unix_diag_req request{};
  request.sdiag_family = AF_UNIX;
  request.udiag_states = ~0U;
  request.udiag_show =
      UDIAG_SHOW_NAME | UDIAG_SHOW_VFS | UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS | UDIAG_SHOW_RQLEN;
  kernel::Messages messages;
  messages.begin(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, kernel::bytes_of(request));
  UnixSockets sockets;
  sock_diag(pid).list(messages, "list", "unix sockets",
                      [&](const nlmsghdr&, std::string_view body) {
                        UnixSocket socket = parse_unix_socket(body);
                        sockets[socket.inode] = socket;
                      });
  return sockets;
}

}  // namespace stasis::engine::files
