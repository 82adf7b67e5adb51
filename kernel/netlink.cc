#include "kernel/netlink.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>

#include "kernel/call.h"

namespace stasis::kernel {

namespace {

void pad(std::string& bytes) { bytes.resize(NLMSG_ALIGN(bytes.size())); }

// Calls `take` for each message until it returns false.
void each_message(std::string_view datagram,
                  const std::function<bool(const nlmsghdr&, std::string_view)>& take) {
  while (!datagram.empty()) {
    auto header = value_of<nlmsghdr>(datagram);
    if (header.nlmsg_len < NLMSG_HDRLEN || header.nlmsg_len > datagram.size())
      throw Error("read", "a netlink message").because("it is cut off");
    if (!take(header, datagram.substr(NLMSG_HDRLEN, header.nlmsg_len - NLMSG_HDRLEN))) return;
    datagram.remove_prefix(std::min<size_t>(NLMSG_ALIGN(header.nlmsg_len), datagram.size()));
  }
}

}  // namespace

void Messages::grow_message() {
  auto length = static_cast<uint32_t>(bytes_.size() - message_);
  memcpy(bytes_.data() + message_, &length, sizeof length);
}

void Messages::begin(uint16_t type, uint16_t flags, std::string_view head) {
  message_ = bytes_.size();
  nlmsghdr header{};
  header.nlmsg_type = type;
  header.nlmsg_flags = flags;
  header.nlmsg_seq = ++sequence_;
  bytes_ += bytes_of(header);
  bytes_ += head;
  pad(bytes_);
  grow_message();
}

void Messages::attribute(uint16_t type, std::string_view value) {
  nlattr head{static_cast<uint16_t>(NLA_HDRLEN + value.size()), type};
  bytes_ += bytes_of(head);
  bytes_ += value;
  pad(bytes_);
  grow_message();
}

void Messages::text(uint16_t type, std::string_view value) {
  attribute(type, std::string(value) + '\0');
}

void Messages::big_endian(uint16_t type, uint32_t value) {
  attribute(type, bytes_of(htonl(value)));
}

void Messages::nest(uint16_t type, std::string_view head, const std::function<void()>& content) {
  size_t start = bytes_.size();
  attribute(type | NLA_F_NESTED, head);
  content();
  auto length = static_cast<uint16_t>(bytes_.size() - start);
  memcpy(bytes_.data() + start, &length, sizeof length);
}

void Messages::acknowledge() {
  auto header = value_of<nlmsghdr>(std::string_view(bytes_).substr(message_));
  header.nlmsg_flags |= NLM_F_ACK;
  memcpy(bytes_.data() + message_, &header, sizeof header);
}

Netlink::Netlink(int protocol)
    : socket_(static_cast<int>(must(call(SYS_socket, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol),
                                    "open", "a netlink socket"))) {}

std::string Netlink::receive(std::string_view operation, std::string_view subject) {
  std::string datagram(1 << 16, '\0');
  long size =
      must(call(SYS_recvfrom, socket_.get(), datagram.data(), datagram.size(), 0, nullptr, nullptr),
           operation, subject);
  datagram.resize(static_cast<size_t>(size));
  return datagram;
}

void Netlink::send(const Messages& messages, uint32_t last, std::string_view operation,
                   std::string_view subject) {
  must(try_send(messages, last, operation, subject), operation, subject);
}

long Netlink::try_send(const Messages& messages, uint32_t last, std::string_view operation,
                       std::string_view subject) {
  // All of it must fit the socket's queue.
  int room = static_cast<int>(messages.bytes().size() + 4096);
  call(SYS_setsockopt, socket_.get(), SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
  must(call(SYS_sendto, socket_.get(), messages.bytes().data(), messages.bytes().size(), 0, nullptr,
            0),
       operation, subject);
  long error = 0;
  for (bool done = false; !done;)
    each_message(receive("hear of", subject), [&](const nlmsghdr& header, std::string_view body) {
      if (header.nlmsg_type != NLMSG_ERROR) return true;
      error = value_of<nlmsgerr>(body).error;
      done |= error < 0 || header.nlmsg_seq == last;
      return error == 0;
    });
  return error;
}

void Netlink::list(const Messages& request, std::string_view operation, std::string_view subject,
                   const std::function<void(const nlmsghdr& header, std::string_view body)>& take) {
  must(call(SYS_sendto, socket_.get(), request.bytes().data(), request.bytes().size(), 0, nullptr,
            0),
       operation, subject);
  for (bool done = false; !done;)
    each_message(receive(operation, subject), [&](const nlmsghdr& header, std::string_view body) {
      if (header.nlmsg_flags & NLM_F_DUMP_INTR)
        throw Error(std::string(operation), std::string(subject))
            .because("it changed meanwhile")
            .hint("try again");
      if (header.nlmsg_type == NLMSG_ERROR)
        must(value_of<nlmsgerr>(body).error, operation, subject);
      done = header.nlmsg_type == NLMSG_DONE || header.nlmsg_type == NLMSG_ERROR;
      if (!done) take(header, body);
      return !done;
    });
}

void each_attribute(std::string_view bytes,
                    const std::function<void(uint16_t type, std::string_view value)>& take) {
  while (bytes.size() >= NLA_HDRLEN) {
    auto head = value_of<nlattr>(bytes);
    if (head.nla_len < NLA_HDRLEN || head.nla_len > bytes.size())
      throw Error("read", "a netlink message").because("an attribute is cut off");
    take(head.nla_type & NLA_TYPE_MASK, bytes.substr(NLA_HDRLEN, head.nla_len - NLA_HDRLEN));
    bytes.remove_prefix(std::min<size_t>(NLA_ALIGN(head.nla_len), bytes.size()));
  }
}

}  // namespace stasis::kernel
