#include "engine/files/inet_diag.h"

#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "engine/files/sock_diag.h"

namespace stasis::engine::files {

std::map<uint32_t, int> udp_shutdowns(pid_t pid) {
  kernel::Netlink netlink = sock_diag(pid);
  std::map<uint32_t, int> shutdowns;
  auto take = [&](const nlmsghdr&, std::string_view body) {
    auto head = kernel::value_of<inet_diag_msg>(body);
    kernel::each_attribute(body.substr(sizeof head), [&](uint16_t type, std::string_view value) {
      if (type == INET_DIAG_SHUTDOWN)
        shutdowns[head.idiag_inode] = kernel::value_of<uint8_t>(value);
    });
  };
  for (int family : {AF_INET, AF_INET6})
    for (int protocol : {IPPROTO_UDP, IPPROTO_UDPLITE}) {
      inet_diag_req_v2 request{};
      request.sdiag_family = static_cast<uint8_t>(family);
      request.sdiag_protocol = static_cast<uint8_t>(protocol);
      request.idiag_states = ~0U;
      kernel::Messages messages;
      messages.begin(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, kernel::bytes_of(request));
      try {
        netlink.list(messages, "list", "UDP sockets", take);
      } catch (const Error& error) {
        if (error.code() != ENOENT) throw;  // no such protocol in this kernel
      }
    }
  return shutdowns;
}

}  // namespace stasis::engine::files
