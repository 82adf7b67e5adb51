#include "engine/namespaces/route_link.h"

#include <linux/fib_rules.h>
#include <linux/if_addr.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/rtnetlink.h>

#include <cstring>

namespace stasis::engine::net {
namespace {

constexpr char subject[] = "the network namespace";

nlmsghdr header_of(std::string_view message) {
  nlmsghdr header{};
  memcpy(&header, message.data(), sizeof header);
  return header;
}

}  // namespace

std::vector<std::string> RouteLink::list(uint16_t type, std::string_view head) {
  kernel::Messages request;
  request.begin(type, NLM_F_REQUEST | NLM_F_DUMP, head);
  std::vector<std::string> found;
  netlink_.list(request, "look at", subject, [&](const nlmsghdr& header, std::string_view body) {
    std::string& message = found.emplace_back(kernel::bytes_of(header));
    message.append(body).resize(NLMSG_ALIGN(header.nlmsg_len));
  });
  return found;
}

long RouteLink::request(std::string_view message, uint16_t flags) {
  kernel::Messages request;
  request.begin(header_of(message).nlmsg_type,
                static_cast<uint16_t>(NLM_F_REQUEST | NLM_F_ACK | flags),
                message.substr(NLMSG_HDRLEN));
  return netlink_.try_send(request, request.last(), "change", subject);
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
template ifaddrmsg head_of<ifaddrmsg>(std::string_view);
template ifinfomsg head_of<ifinfomsg>(std::string_view);
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
