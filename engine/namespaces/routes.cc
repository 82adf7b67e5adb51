#include "engine/namespaces/routes.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/fib_rules.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>

#include "engine/image/format.h"
#include "engine/namespaces/route_link.h"
#include "kernel/fs.h"

namespace stasis::engine::net {
namespace {

constexpr uint32_t loopback_index = 1;  // in every network namespace
constexpr uint64_t largest_image = 4 << 20;

// What the file of each kind begins with, and what its messages are.
struct Saved {
  const char* name;
  uint32_t magic;
  uint16_t type;
};
constexpr Saved addresses{"ifaddr", 0x47361222, RTM_NEWADDR};
constexpr Saved routes4{"route", 0x45311224, RTM_NEWROUTE};
constexpr Saved routes6{"route6", 0x45311224, RTM_NEWROUTE};
constexpr Saved rules{"rule", 0x71706986, RTM_NEWRULE};
constexpr const Saved* all_kinds[] = {&addresses, &routes4, &routes6, &rules};

using Messages = std::vector<std::string>;
using Indexes = std::set<uint32_t>;  // of links

template <typename Head>
std::string_view bytes(const Head& head) {
  return {reinterpret_cast<const char*>(&head), sizeof head};
}

uint32_t number(std::string_view value) {
  uint32_t result = 0;
  if (value.size() == sizeof result) memcpy(&result, value.data(), sizeof result);
  return result;
}

uint16_t type_of(const std::string& message) {
  uint16_t type = 0;
  memcpy(&type, message.data() + offsetof(nlmsghdr, nlmsg_type), sizeof type);
  return type;
}

uint32_t link_of_address(const std::string& message) {
  return head_of<ifaddrmsg>(message).ifa_index;
}

Messages addresses_of(RouteLink& link, const Indexes& links) {
  ifaddrmsg any{};
  Messages found = link.list(RTM_GETADDR, bytes(any));
  std::erase_if(
      found, [&](const std::string& message) { return !links.contains(link_of_address(message)); });
  return found;
}

// What makes an address; the rest of a message tells of its life.
std::string identity_of_address(const std::string& message) {
  auto head = head_of<ifaddrmsg>(message);
  std::string identity =
      fmt::format("{} {} {} ", head.ifa_index, head.ifa_family, head.ifa_prefixlen);
  auto local = attribute(message, sizeof head, IFA_LOCAL);
  identity += local.empty() ? attribute(message, sizeof head, IFA_ADDRESS) : local;
  return identity;
}

bool is_made_by_kernel(const std::string& address) {
  auto head = head_of<ifaddrmsg>(address);
  if (head.ifa_index != loopback_index) return false;
  const in_addr four{htonl(INADDR_LOOPBACK)};
  const in6_addr six = IN6ADDR_LOOPBACK_INIT;
  if (head.ifa_family == AF_INET)
    return head.ifa_prefixlen == 8 && attribute(address, sizeof head, IFA_LOCAL) == bytes(four);
  return head.ifa_prefixlen == 128 && attribute(address, sizeof head, IFA_ADDRESS) == bytes(six);
}

bool are_default_addresses(const Messages& found, bool up) {
  if (!std::all_of(found.begin(), found.end(), is_made_by_kernel)) return false;
  bool has_four = std::any_of(found.begin(), found.end(), [](const std::string& message) {
    return head_of<ifaddrmsg>(message).ifa_family == AF_INET;
  });
  return has_four == up;
}

Messages own_routes(RouteLink& link, const Indexes& links, uint8_t family) {
  rtmsg any{};
  any.rtm_family = family;
  Messages found = link.list(RTM_GETROUTE, bytes(any));
  std::erase_if(found, [&](const std::string& message) {
    auto head = head_of<rtmsg>(message);
    auto by = attribute(message, sizeof head, RTA_OIF);
    return head.rtm_family != family || (head.rtm_flags & RTM_F_CLONED) ||
           head.rtm_protocol == RTPROT_KERNEL || (!by.empty() && !links.contains(number(by)));
  });
  for (const std::string& message : found)
    if (!attribute(message, sizeof(rtmsg), RTA_MULTIPATH).empty())
      throw Error("dump", "the network namespace")
          .because("it has a route over several links")
          .hint("leave routes to the runtime, or declare the network namespace external");
  return found;
}

Messages all_rules(RouteLink& link) {
  Messages found;
  for (uint8_t family : {AF_INET, AF_INET6}) {
    fib_rule_hdr any{};
    any.family = family;
    for (std::string& rule : link.list(RTM_GETRULE, bytes(any)))
      if (head_of<fib_rule_hdr>(rule).family == family) found.push_back(std::move(rule));
  }
  return found;
}

// "local", "main" and, for IPv4, "default": each table looked at for everything.
bool are_default_rules(const Messages& found) {
  size_t expected[2] = {3, 2}, count[2] = {};
  for (const std::string& rule : found) {
    auto head = head_of<fib_rule_hdr>(rule);
    ++count[head.family == AF_INET6];
    uint32_t priority = number(attribute(rule, sizeof head, FRA_PRIORITY));
    uint32_t table = number(attribute(rule, sizeof head, FRA_TABLE));
    bool known = (priority == 0 && table == RT_TABLE_LOCAL) ||
                 (priority == 32766 && table == RT_TABLE_MAIN) ||
                 (priority == 32767 && table == RT_TABLE_DEFAULT);
    bool plain = head.action == FR_ACT_TO_TBL && head.src_len == 0 && head.dst_len == 0 &&
                 head.tos == 0 && head.flags == 0;
    for (uint16_t condition : {FRA_FWMARK, FRA_IIFNAME, FRA_OIFNAME, FRA_UID_RANGE, FRA_IP_PROTO,
                               FRA_SPORT_RANGE, FRA_DPORT_RANGE, FRA_L3MDEV})
      plain &= attribute(rule, sizeof head, condition).empty();
    if (!known || !plain) return false;
  }
  // A kernel without IPv6 or without rules has none.
  return (count[0] == expected[0] || count[0] == 0) && (count[1] == expected[1] || count[1] == 0);
}

void save(const Saved& kind, uint32_t ns_id, const Messages& messages, image::ImageWriter& writer) {
  std::string content(bytes(kind.magic));
  for (const std::string& message : messages) content += message;
  std::string stem = fmt::format("{}-{}", kind.name, ns_id);
  kernel::write_all(writer.raw(stem), content, stem + ".img");
}

std::optional<Messages> saved(const image::Checkpoint& checkpoint, const Saved& kind) {
  std::string stem = fmt::format("{}-{}", kind.name, checkpoint.root().ids.net_ns_id());
  if (!checkpoint.dir.has(stem) || checkpoint.dir.size(stem) == 0) return std::nullopt;
  if (checkpoint.dir.size(stem) > largest_image)
    throw image::bad_image(stem, -1, "is too large to be believed");
  return parse_saved(stem, kernel::read_all(checkpoint.dir.raw(stem).get(), stem + ".img"));
}

void must_change(long result, const char* operation, const char* what) {
  kernel::must(result, operation, fmt::format("{} of the network namespace", what));
}

std::string as_removal(std::string message, uint16_t type) {
  memcpy(message.data() + offsetof(nlmsghdr, nlmsg_type), &type, sizeof type);
  return message;
}

// IPv6 sees for a second whether others on the link have an address, and who binds to it meanwhile
// fails: one that the container had is taken for known. Empty: there is nothing to see.
std::string as_known(std::string address) {
  auto head = head_of<ifaddrmsg>(address);
  std::string_view all_flags = attribute(address, sizeof head, IFA_FLAGS);
  uint32_t flags = all_flags.empty() ? head.ifa_flags : number(all_flags);
  if (head.ifa_family != AF_INET6 || head.ifa_index == loopback_index || flags & IFA_F_NODAD)
    return {};
  flags |= IFA_F_NODAD;
  head.ifa_flags = static_cast<uint8_t>(flags);
  if (!all_flags.empty())
    memcpy(address.data() + (all_flags.data() - address.data()), &flags, sizeof flags);
  memcpy(address.data() + NLMSG_HDRLEN, &head, sizeof head);
  return address;
}

void add_address(RouteLink& link, const std::string& address) {
  const std::string known = as_known(address);
  long result = link.request(known.empty() ? address : known, NLM_F_CREATE | NLM_F_EXCL);
  // The kernel gives IPv6 links addresses of theirs when these are up, in its own time.
  if (result == -EEXIST) return;
  must_change(result, "add", "an address");
  if (!known.empty()) must_change(link.request(address, NLM_F_REPLACE), "add", "an address");
}

void restore_addresses(RouteLink& link, const Indexes& links, const Messages& wanted) {
  Messages there = addresses_of(link, links);
  auto has = [](const Messages& list, const std::string& address) {
    return std::any_of(list.begin(), list.end(), [&](const std::string& other) {
      return identity_of_address(other) == identity_of_address(address);
    });
  };
  for (const std::string& address : there)
    if (!has(wanted, address))
      must_change(link.request(as_removal(address, RTM_DELADDR), 0), "remove", "an address");
  for (const std::string& address : wanted)
    if (!has(there, address)) add_address(link, address);
}

// A route over a gateway needs the route to it first.
void restore_routes(RouteLink& link, Messages wanted) {
  for (std::string& route : wanted) {
    auto head = head_of<rtmsg>(route);
    head.rtm_flags &= RTNH_F_ONLINK;  // the others are the kernel's to tell
    memcpy(route.data() + NLMSG_HDRLEN, &head, sizeof head);
  }
  while (!wanted.empty()) {
    long error = 0;
    size_t before = wanted.size();
    std::erase_if(wanted, [&](const std::string& route) {
      long result = link.request(route, NLM_F_CREATE | NLM_F_REPLACE);
      if (result < 0) error = result;
      return result == 0 || result == -EEXIST;
    });
    if (wanted.size() == before) must_change(error, "add", "a route");
  }
}

void restore_rules(RouteLink& link, const Messages& wanted) {
  if (are_default_rules(wanted)) return;
  for (const std::string& rule : all_rules(link)) {
    uint8_t family = head_of<fib_rule_hdr>(rule).family;
    bool named = std::any_of(wanted.begin(), wanted.end(), [&](const std::string& other) {
      return head_of<fib_rule_hdr>(other).family == family;
    });
    // CRIU saves those of IPv4 only.
    if (named) must_change(link.request(as_removal(rule, RTM_DELRULE), 0), "remove", "a rule");
  }
  for (const std::string& rule : wanted) {
    long result = link.request(rule, NLM_F_CREATE | NLM_F_EXCL);
    if (result != -EEXIST) must_change(result, "add", "a rule");
  }
}

void check_message(std::string_view stem, int64_t at, const std::string& message,
                   const Saved& kind) {
  auto expect = [&](bool holds, const char* what) {
    if (!holds) throw image::bad_image(stem, at, what);
  };
  expect(type_of(message) == kind.type, "a netlink message of another type");
  if (kind.type == RTM_NEWADDR) {
    auto head = head_of<ifaddrmsg>(message);
    expect(head.ifa_family == AF_INET || head.ifa_family == AF_INET6, "an unknown family");
  } else if (kind.type == RTM_NEWROUTE) {
    auto head = head_of<rtmsg>(message);
    expect(head.rtm_family == AF_INET || head.rtm_family == AF_INET6, "an unknown family");
  } else {
    auto head = head_of<fib_rule_hdr>(message);
    expect(head.family == AF_INET || head.family == AF_INET6, "an unknown family");
  }
}

}  // namespace

std::vector<std::string> parse_saved(std::string_view stem, std::string_view content) {
  for (const Saved* kind : all_kinds) {
    if (stem.substr(0, stem.rfind('-')) != kind->name) continue;
    if (content.substr(0, 4) != bytes(kind->magic))
      throw image::bad_image(stem, -1, "isn't what \"ip save\" writes");
    Messages messages = split_messages(content.substr(4), std::string(stem) + ".img");
    for (size_t i = 0; i < messages.size(); ++i)
      check_message(stem, static_cast<int64_t>(i), messages[i], *kind);
    return messages;
  }
  return {};
}

void dump_routes(bool loopback_is_up, const Indexes& links, uint32_t ns_id,
                 image::ImageWriter& writer) {
  RouteLink link;
  if (Messages found = addresses_of(link, links); !are_default_addresses(found, loopback_is_up))
    save(addresses, ns_id, found, writer);
  if (Messages found = own_routes(link, links, AF_INET); !found.empty())
    save(routes4, ns_id, found, writer);
  if (Messages found = own_routes(link, links, AF_INET6); !found.empty())
    save(routes6, ns_id, found, writer);
  if (Messages found = all_rules(link); !are_default_rules(found))
    save(rules, ns_id, found, writer);
}

void restore_routes(const image::Checkpoint& checkpoint, const Indexes& links) {
  auto saved_addresses = saved(checkpoint, addresses);
  auto four = saved(checkpoint, routes4), six = saved(checkpoint, routes6);
  if (!saved_addresses && !four && !six) return;
  RouteLink link;
  auto other_link = [&](const std::string& message) {
    return !links.contains(link_of_address(message));
  };
  auto by_other_link = [&](const std::string& message) {
    auto by = attribute(message, sizeof(rtmsg), RTA_OIF);
    return (!by.empty() && !links.contains(number(by))) ||
           !attribute(message, sizeof(rtmsg), RTA_MULTIPATH).empty();
  };
  // Of CRIU's images: those of links that are the runtime's.
  if (saved_addresses) std::erase_if(*saved_addresses, other_link);
  for (auto* routes : {&four, &six})
    if (*routes) std::erase_if(**routes, by_other_link);
  if (saved_addresses) restore_addresses(link, links, *saved_addresses);
  if (four) restore_routes(link, std::move(*four));
  if (six) restore_routes(link, std::move(*six));
}

void restore_rules(const image::Checkpoint& checkpoint) {
  auto wanted = saved(checkpoint, rules);
  if (!wanted) return;
  RouteLink link;
  restore_rules(link, *wanted);
}

}  // namespace stasis::engine::net
