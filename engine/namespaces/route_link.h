// Netlink as far as a network namespace's own state needs it: lists of what
// there is, and single requests.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernel/netlink.h"

namespace stasis::engine::net {

// In the network namespace of the calling thread.
class RouteLink {
 public:
  explicit RouteLink(int protocol = NETLINK_ROUTE) : netlink_(protocol) {}

  // Whole messages, header and all, padded: what answers a request to list.
  std::vector<std::string> list(uint16_t type, std::string_view head);
  // `message` is a whole one; its flags are set here. 0 or -errno.
  long request(std::string_view message, uint16_t flags);

 private:
  kernel::Netlink netlink_;
};

// The attribute of that type behind a head of `head_size` bytes, or "".
std::string_view attribute(std::string_view message, size_t head_size, uint16_t type);

// The head of a message's body; throws where the message is too short for it.
template <typename Head>
Head head_of(std::string_view message);

// The messages in `bytes`; throws Error about `subject` where they don't fit.
std::vector<std::string> split_messages(std::string_view bytes, const std::string& subject);

}  // namespace stasis::engine::net
