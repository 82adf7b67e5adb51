#include "rpc/channel.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "kernel/fs.h"
#include "kernel/socket.h"

namespace stasis::rpc {
namespace {

constexpr size_t message_limit = 1 << 20;  // of a request
constexpr size_t answer_limit = 8192;      // go-criu's buffer
constexpr size_t errmsg_limit = 1024;

}  // namespace

Channel::Channel(int fd) {
  std::string name = fmt::format("descriptor {}", fd);
  int type = kernel::socket_option<int>(fd, SOL_SOCKET, SO_TYPE, "serve requests on", name);
  if (type != SOCK_SEQPACKET)
    throw Error("serve requests on", name).because("it isn't a SOCK_SEQPACKET socket");
  fd_.reset(fd);
  kernel::must(kernel::call(SYS_fcntl, fd, F_SETFD, FD_CLOEXEC), "serve requests on", name);
  auto peer = kernel::socket_option<ucred>(fd, SOL_SOCKET, SO_PEERCRED,
                                           "ask who is at the other end of", name);
  peer_ = peer.pid;
}

std::optional<Request> Channel::receive() {
  long size = 0;
  do size = kernel::call(SYS_recvfrom, fd_.get(), 0, 0, MSG_PEEK | MSG_TRUNC, 0, 0);
  while (size == -EINTR);
  if (size == -ECONNRESET) return std::nullopt;
  kernel::must(size, "receive", "a request");
  if (size == 0) return std::nullopt;
  if (static_cast<size_t>(size) > message_limit)
    throw Error("receive", "a request").because(fmt::format("it has {} bytes", size));
  std::string packet(static_cast<size_t>(size), '\0');
  kernel::must(kernel::call(SYS_recvfrom, fd_.get(), packet.data(), packet.size(), 0, 0, 0),
               "receive", "a request");
  Request request;
  // Partial: protobuf itself would complain on stderr, which is the container's.
  if (!request.ParsePartialFromString(packet) || !request.IsInitialized())
    throw Error("receive", "a request")
        .because("it isn't a complete CRIU request")
        .with_errno(EBADMSG);
  return request;
}

void Channel::send(Response response, int passed) {
  if (response.cr_errmsg().size() > errmsg_limit)
    response.set_cr_errmsg(response.cr_errmsg().substr(0, errmsg_limit - 3) + "...");
  std::string packet = response.SerializeAsString();
  if (packet.size() > answer_limit)
    throw Error("answer", "a request").because("the answer is longer than 8 KiB");

  iovec part{packet.data(), packet.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof passed)] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (passed >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof passed);
    memcpy(CMSG_DATA(header), &passed, sizeof passed);
  }
  long sent = 0;
  do sent = kernel::call(SYS_sendmsg, fd_.get(), &message, MSG_NOSIGNAL);
  while (sent == -EINTR);
  kernel::must(sent, "answer", "the caller");
}

UniqueFd Channel::open_of_peer(int fd, int flags) const {
  return kernel::open(fmt::format("/proc/{}/fd/{}", peer_, fd), flags);
}

}  // namespace stasis::rpc
