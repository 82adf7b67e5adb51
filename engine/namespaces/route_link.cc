#include "engine/namespaces/route_link.h"

#include <fmt/format.h>
#include <linux/fib_rules.h>
#include <linux/if_addr.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <cstring>

#include "kernel/call.h"

namespace stasis::engine::net {
namespace {

constexpr char subject[] = "the network namespace";
constexpr size_t answer_size = 1 << 17;

nlmsghdr header_of(std::string_view message) {
  nlmsghdr header{};
  memcpy(&header, message.data(), sizeof header);
  return header;
}

}  // namespace

RouteLink::RouteLink(int protocol)
    : socket_(static_cast<int>(
          kernel::must(kernel::call(SYS_socket, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol),
                       "look at", subject))) {}

std::string RouteLink::receive() {
  std::string answer(answer_size, '\0');
  long size = kernel::must(
      kernel::call(SYS_recvfrom, socket_.get(), answer.data(), answer.size(), 0, nullptr, nullptr),
      "look at", subject);
  answer.resize(static_cast<size_t>(size));
  return answer;
}

std::vector<std::string> RouteLink::list(uint16_t type, std::string_view head) {
  nlmsghdr header{};
  header.nlmsg_len = static_cast<uint32_t>(NLMSG_LENGTH(head.size()));
  header.nlmsg_type = type;
  header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  header.nlmsg_seq = ++sequence_;
  std::string message(reinterpret_cast<const char*>(&header), sizeof header);
  message.append(head).resize(NLMSG_ALIGN(header.nlmsg_len));
  kernel::must(
      kernel::call(SYS_sendto, socket_.get(), message.data(), message.size(), 0, nullptr, 0),
      "look at", subject);
  std::vector<std::string> found;
  for (;;)
    for (std::string& answer : split_messages(receive(), subject)) {
      header = header_of(answer);
      if (header.nlmsg_flags & NLM_F_DUMP_INTR)
        throw Error("look at", subject).because("it changed meanwhile").hint("try again");
      if (header.nlmsg_type == NLMSG_DONE) return found;
      if (header.nlmsg_type == NLMSG_ERROR) {
        auto error = head_of<nlmsgerr>(answer).error;
        kernel::must(error, "look at", subject);
        return found;
      }
      found.push_back(std::move(answer));
    }
}

int RouteLink::request(std::string message, uint16_t flags) {
  nlmsghdr header = header_of(message);
  header.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | NLM_F_ACK | flags);
  header.nlmsg_seq = ++sequence_;
  header.nlmsg_pid = 0;
  memcpy(message.data(), &header, sizeof header);
  kernel::must(
      kernel::call(SYS_sendto, socket_.get(), message.data(), message.size(), 0, nullptr, 0),
      "change", subject);
  for (;;)
    for (const std::string& answer : split_messages(receive(), subject))
      if (header_of(answer).nlmsg_type == NLMSG_ERROR) return head_of<nlmsgerr>(answer).error;
}

std::string_view attribute(std::string_view message, size_t head_size, uint16_t type) {
  std::string_view rest = message.substr(std::min<size_t>(message.size(), NLMSG_SPACE(head_size)));
  while (rest.size() >= sizeof(rtattr)) {
    rtattr attribute{};
    memcpy(&attribute, rest.data(), sizeof attribute);
    if (attribute.rta_len < sizeof attribute || attribute.rta_len > rest.size()) return {};
    if ((attribute.rta_type & NLA_TYPE_MASK) == type)
      return rest.substr(RTA_LENGTH(0), attribute.rta_len - RTA_LENGTH(0));
    rest.remove_prefix(std::min<size_t>(RTA_ALIGN(attribute.rta_len), rest.size()));
  }
  return {};
}

template <typename Head>
Head head_of(std::string_view message) {
  Head head{};
  if (message.size() < NLMSG_LENGTH(sizeof head))
    throw Error("read", "a netlink message").because("it is too short");
  memcpy(&head, message.data() + NLMSG_HDRLEN, sizeof head);
  return head;
}
template nlmsgerr head_of<nlmsgerr>(std::string_view);
template ifaddrmsg head_of<ifaddrmsg>(std::string_view);
template rtmsg head_of<rtmsg>(std::string_view);
template fib_rule_hdr head_of<fib_rule_hdr>(std::string_view);
template nfgenmsg head_of<nfgenmsg>(std::string_view);

std::vector<std::string> split_messages(std::string_view bytes, const std::string& what) {
  std::vector<std::string> messages;
  while (!bytes.empty()) {
    nlmsghdr header{};
    if (bytes.size() >= sizeof header) header = header_of(bytes);
    if (header.nlmsg_len < sizeof header || header.nlmsg_len > bytes.size())
      throw Error("read", what).because("a netlink message in it is cut off");
    size_t padded = std::min<size_t>(NLMSG_ALIGN(header.nlmsg_len), bytes.size());
    messages.emplace_back(bytes.substr(0, padded));
    bytes.remove_prefix(padded);
  }
  return messages;
}

}  // namespace stasis::engine::net
