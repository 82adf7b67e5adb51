#include "engine/namespaces/links.h"

#include <fmt/format.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/if_vlan.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>

#include <algorithm>
#include <array>
#include <map>
#include <span>

#include "engine/image/format.h"
#include "engine/namespaces/net_sysctls.h"
#include "engine/namespaces/route_link.h"

namespace stasis::engine::net {
namespace {

constexpr uint32_t loopback_index = 1;  // in every network namespace
constexpr uint32_t settable_flags =
    IFF_UP | IFF_NOARP | IFF_PROMISC | IFF_ALLMULTI | IFF_MULTICAST | IFF_DEBUG;

// What decides how a link of a kind works; set as it is read.
constexpr uint16_t of_bridge[] = {IFLA_BR_FORWARD_DELAY,
                                  IFLA_BR_HELLO_TIME,
                                  IFLA_BR_MAX_AGE,
                                  IFLA_BR_AGEING_TIME,
                                  IFLA_BR_STP_STATE,
                                  IFLA_BR_PRIORITY,
                                  IFLA_BR_GROUP_FWD_MASK,
                                  IFLA_BR_MCAST_ROUTER,
                                  IFLA_BR_MCAST_SNOOPING,
                                  IFLA_BR_MCAST_QUERY_USE_IFADDR,
                                  IFLA_BR_MCAST_QUERIER,
                                  IFLA_BR_MCAST_HASH_MAX,
                                  IFLA_BR_MCAST_LAST_MEMBER_CNT,
                                  IFLA_BR_MCAST_STARTUP_QUERY_CNT,
                                  IFLA_BR_MCAST_LAST_MEMBER_INTVL,
                                  IFLA_BR_MCAST_MEMBERSHIP_INTVL,
                                  IFLA_BR_MCAST_QUERIER_INTVL,
                                  IFLA_BR_MCAST_QUERY_INTVL,
                                  IFLA_BR_MCAST_QUERY_RESPONSE_INTVL,
                                  IFLA_BR_MCAST_STARTUP_QUERY_INTVL,
                                  IFLA_BR_NF_CALL_IPTABLES,
                                  IFLA_BR_NF_CALL_IP6TABLES,
                                  IFLA_BR_NF_CALL_ARPTABLES,
                                  IFLA_BR_MCAST_STATS_ENABLED,
                                  IFLA_BR_MCAST_IGMP_VERSION,
                                  IFLA_BR_MCAST_MLD_VERSION};
constexpr uint16_t of_bridge_port[] = {
    IFLA_BRPORT_PRIORITY,    IFLA_BRPORT_COST,          IFLA_BRPORT_MODE,
    IFLA_BRPORT_GUARD,       IFLA_BRPORT_PROTECT,       IFLA_BRPORT_FAST_LEAVE,
    IFLA_BRPORT_LEARNING,    IFLA_BRPORT_UNICAST_FLOOD, IFLA_BRPORT_PROXYARP,
    IFLA_BRPORT_MCAST_FLOOD, IFLA_BRPORT_BCAST_FLOOD,   IFLA_BRPORT_ISOLATED};
constexpr uint16_t of_vlan[] = {IFLA_VLAN_ID, IFLA_VLAN_FLAGS, IFLA_VLAN_PROTOCOL};
constexpr uint16_t of_macvlan[] = {IFLA_MACVLAN_MODE, IFLA_MACVLAN_FLAGS};

enum class Other { none, lower, peer };  // what its IFLA_LINK is
struct Kind {
  std::string_view name;
  Other other;
  std::span<const uint16_t> data;
};
constexpr std::string_view bridge = "bridge", veth = "veth", vlan = "vlan";
const std::array kinds{Kind{bridge, Other::none, of_bridge}, Kind{"dummy", Other::none, {}},
                       Kind{"macvlan", Other::lower, of_macvlan}, Kind{veth, Other::peer, {}},
                       Kind{vlan, Other::lower, of_vlan}};

const Kind* kind_of(std::string_view name) {
  const auto* found =
      std::find_if(kinds.begin(), kinds.end(), [&](const Kind& kind) { return kind.name == name; });
  return found == kinds.end() ? nullptr : found;
}

// Attributes of one level, by type.
using Attributes = std::map<uint16_t, std::string_view>;

Attributes attributes(std::string_view bytes) {
  Attributes found;
  kernel::each_attribute(
      bytes, [&](uint16_t type, std::string_view value) { found[type & NLA_TYPE_MASK] = value; });
  return found;
}

std::string_view find(const Attributes& all, uint16_t type) {
  auto found = all.find(type);
  return found == all.end() ? std::string_view() : found->second;
}

uint32_t number(const Attributes& all, uint16_t type) {
  std::string_view value = find(all, type);
  return value.size() == sizeof(uint32_t) ? kernel::value_of<uint32_t>(value) : 0;
}

std::string text(const Attributes& all, uint16_t type) {
  std::string_view value = find(all, type);
  return std::string(value.substr(0, value.find('\0')));
}

// Of a message that outlives it.
struct Link {
  ifinfomsg head;
  Attributes all, info;
  std::string name, kind;

  explicit Link(std::string_view message)
      : head(head_of<ifinfomsg>(message)),
        all(attributes(message.substr(NLMSG_SPACE(sizeof head)))),
        info(attributes(find(all, IFLA_LINKINFO))),
        name(text(all, IFLA_IFNAME)),
        kind(text(info, IFLA_INFO_KIND)) {}
  uint32_t index() const { return static_cast<uint32_t>(head.ifi_index); }
};

// Made in every new network namespace where the host has the modules.
bool is_the_kernels(const Link& link) {
  constexpr std::array<std::string_view, 9> fallbacks{
      "tunl0", "gre0", "gretap0", "erspan0", "sit0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0"};
  return !(link.head.ifi_flags & IFF_UP) &&
         std::find(fallbacks.begin(), fallbacks.end(), link.name) != fallbacks.end();
}

bool filters_vlans(const Link& link) {
  auto data = attributes(find(link.info, IFLA_INFO_DATA));
  return link.kind == bridge && find(data, IFLA_BR_VLAN_FILTERING) == std::string_view("\1", 1);
}

// What would be missing if it were made again, beside those of `indexes`; empty: nothing.
std::string hindrance(const Link& link, const std::set<uint32_t>& indexes) {
  const Kind* kind = kind_of(link.kind);
  if (!kind) return link.kind.empty() ? "is a device of the host's" : "is of the kind " + link.kind;
  if (!find(link.all, IFLA_LINK_NETNSID).empty())
    return link.kind == veth ? "has its other end in another network namespace"
                             : "is on a link of another network namespace";
  if (kind->other != Other::none && !indexes.contains(number(link.all, IFLA_LINK)))
    return "is on a link that isn't made again";
  std::string port = text(link.info, IFLA_INFO_SLAVE_KIND);
  if (!port.empty() && port != bridge) return "belongs to a link of the kind " + port;
  if (filters_vlans(link)) return "filters VLANs";
  std::string queue = text(link.all, IFLA_QDISC);
  if (queue != "noqueue" && queue != "noop") return "has the queueing discipline " + queue;
  auto xdp = attributes(find(link.all, IFLA_XDP));
  if (std::string_view mode = find(xdp, IFLA_XDP_ATTACHED); !mode.empty() && mode[0] != 0)
    return "has an XDP program";
  return {};
}

constexpr const char* remedy =
    "leave the network to the runtime (as runc does), or declare the network namespace external";

std::vector<std::string> list_links() {
  return RouteLink().list(RTM_GETLINK, kernel::bytes_of(ifinfomsg{}));
}

// Calls `take` for each that isn't there in any namespace, with what would be missing of it,
// beside those of which nothing is.
template <typename Take>
void each_link(Take take) {
  const std::vector<std::string> messages = list_links();
  std::vector<Link> links;
  std::set<uint32_t> indexes;
  for (const std::string& message : messages) {
    Link link(message);
    if (link.index() == loopback_index || is_the_kernels(link)) continue;
    indexes.insert(link.index());
    links.push_back(std::move(link));
  }
  auto is_hindered = [&](uint32_t index) {
    auto link = std::find_if(links.begin(), links.end(),
                             [&](const Link& one) { return one.index() == index; });
    return !hindrance(*link, indexes).empty();
  };
  while (std::erase_if(indexes, is_hindered) > 0) {
  }
  for (const Link& link : links) take(link, hindrance(link, indexes), indexes);
}

std::string subject(const std::string& name) { return "network interface " + name; }

template <typename Entries>
void keep(const Attributes& all, std::span<const uint16_t> wanted, Entries& entries) {
  for (uint16_t type : wanted) {
    std::string_view value = find(all, type);
    if (value.empty()) continue;
    image::LinkAttributeEntry& entry = *entries.Add();
    entry.set_type(type);
    entry.set_value(std::string(value));
  }
}

// As flags that are told to change the kernel gives all that a word has, and takes only those it
// knows.
void narrow_vlan_flags(image::LinkEntry& entry) {
  for (image::LinkAttributeEntry& attribute : *entry.mutable_data()) {
    if (attribute.type() != IFLA_VLAN_FLAGS) continue;
    auto value = kernel::value_of<ifla_vlan_flags>(attribute.value());
    value.mask = value.flags | VLAN_FLAG_REORDER_HDR | VLAN_FLAG_GVRP | VLAN_FLAG_LOOSE_BINDING |
                 VLAN_FLAG_MVRP;
    attribute.set_value(std::string(kernel::bytes_of(value)));
  }
}

image::LinkEntry entry_of(const Link& link, const std::set<uint32_t>& indexes) {
  image::LinkEntry entry;
  const Kind& kind = *kind_of(link.kind);
  entry.set_index(link.index());
  entry.set_name(link.name);
  entry.set_kind(link.kind);
  entry.set_flags(link.head.ifi_flags & settable_flags);
  entry.set_mtu(number(link.all, IFLA_MTU));
  entry.set_queue_length(number(link.all, IFLA_TXQLEN));
  entry.set_group(number(link.all, IFLA_GROUP));
  entry.set_address(std::string(find(link.all, IFLA_ADDRESS)));
  if (std::string alias = text(link.all, IFLA_IFALIAS); !alias.empty()) entry.set_alias(alias);
  uint32_t master = number(link.all, IFLA_MASTER);
  if (indexes.contains(master)) entry.set_master(master);
  if (kind.other != Other::none) entry.set_other(number(link.all, IFLA_LINK));
  auto ipv6 = attributes(find(attributes(find(link.all, IFLA_AF_SPEC)), AF_INET6));
  if (std::string_view mode = find(ipv6, IFLA_INET6_ADDR_GEN_MODE); !mode.empty())
    entry.set_address_mode(static_cast<uint8_t>(mode[0]));
  keep(attributes(find(link.info, IFLA_INFO_DATA)), kind.data, *entry.mutable_data());
  if (link.kind == vlan) narrow_vlan_flags(entry);
  if (entry.has_master())
    keep(attributes(find(link.info, IFLA_INFO_SLAVE_DATA)), of_bridge_port, *entry.mutable_port());
  return entry;
}

// ---- Making them

class Maker {
 public:
  Maker(const Links& links, Log& log);
  void make();

 private:
  void visit(const image::LinkEntry& link);
  void create(const image::LinkEntry& link);
  void complete(const image::LinkEntry& link);
  void set_address_mode(const image::LinkEntry& link);
  void set_flags(const image::LinkEntry& link);
  void send(const kernel::Messages& message, const char* operation, const image::LinkEntry& link);
  [[noreturn]] static void fail(const image::LinkEntry& link, const char* cause) {
    throw image::bad_image("stasis", -1,
                           fmt::format("network interface {} {}", link.name(), cause));
  }

  std::map<uint32_t, const image::LinkEntry*> by_index_;
  std::vector<const image::LinkEntry*> order_;  // what others are on comes before them
  std::set<uint32_t> begun_;
  kernel::Netlink netlink_{NETLINK_ROUTE};
};

Maker::Maker(const Links& links, Log& log) {
  for (const image::LinkEntry& link : links) {
    if (!kind_of(link.kind())) fail(link, "is of an unknown kind");
    if (link.index() <= loopback_index || !by_index_.emplace(link.index(), &link).second)
      fail(link, "has the index of another");
  }
  for (const image::LinkEntry& link : links) visit(link);
  for (const std::string& message : list_links()) {
    Link there(message);
    auto same = std::find_if(order_.begin(), order_.end(), [&](const image::LinkEntry* link) {
      return link->name() == there.name || link->index() == there.index();
    });
    if (same == order_.end()) continue;
    if ((*same)->name() != there.name || (*same)->index() != there.index())
      throw Error("restore", subject((*same)->name()))
          .because(fmt::format("it had index {}, and {} has index {} now", (*same)->index(),
                               there.name, there.index()))
          .hint("leave it to what made the other one, or have that made with another index");
    log.info("Network interface {} is there already", there.name);
    order_.erase(same);
  }
}

void Maker::visit(const image::LinkEntry& link) {
  if (!begun_.insert(link.index()).second) return;
  const Kind& kind = *kind_of(link.kind());
  auto other = by_index_.find(link.other());
  if (kind.other != Other::none && other == by_index_.end()) fail(link, "is on none of the others");
  if (kind.other == Other::peer &&
      (other->second->kind() != veth || other->second->other() != link.index()))
    fail(link, "is no other end of its other end");
  if (kind.other == Other::lower) {
    visit(*other->second);
    if (std::find(order_.begin(), order_.end(), other->second) == order_.end())
      fail(link, "is on itself");
  }
  order_.push_back(&link);
}

ifinfomsg head_with(uint32_t index, uint32_t flags = 0, uint32_t change = 0) {
  ifinfomsg head{};
  head.ifi_index = static_cast<int>(index);
  head.ifi_flags = flags;
  head.ifi_change = change;
  return head;
}

void add_attributes(kernel::Messages& message, const image::LinkEntry& link) {
  message.text(IFLA_IFNAME, link.name());
  message.attribute(IFLA_MTU, kernel::bytes_of(link.mtu()));
  message.attribute(IFLA_TXQLEN, kernel::bytes_of(link.queue_length()));
  message.attribute(IFLA_GROUP, kernel::bytes_of(link.group()));
  message.attribute(IFLA_ADDRESS, link.address());
}

template <typename Entries>
void add_data(kernel::Messages& message, const Entries& entries, std::span<const uint16_t> known) {
  for (const image::LinkAttributeEntry& entry : entries) {
    auto type = static_cast<uint16_t>(entry.type());
    if (std::find(known.begin(), known.end(), type) != known.end())
      message.attribute(type, entry.value());
  }
}

// Both ends of a pair come of one call.
void Maker::create(const image::LinkEntry& link) {
  const Kind& kind = *kind_of(link.kind());
  if (kind.other == Other::peer && link.other() < link.index()) return;
  kernel::Messages message;
  constexpr auto flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
  message.begin(RTM_NEWLINK, flags, kernel::bytes_of(head_with(link.index())));
  add_attributes(message, link);
  if (kind.other == Other::lower) message.attribute(IFLA_LINK, kernel::bytes_of(link.other()));
  message.nest(IFLA_LINKINFO, [&] {
    message.text(IFLA_INFO_KIND, link.kind());
    message.nest(IFLA_INFO_DATA, [&] {
      add_data(message, link.data(), kind.data);
      if (kind.other != Other::peer) return;
      const image::LinkEntry& peer = *by_index_.at(link.other());
      message.nest(VETH_INFO_PEER, kernel::bytes_of(head_with(peer.index())),
                   [&] { add_attributes(message, peer); });
    });
  });
  send(message, "make", link);
}

// What a link can be told only when it is there.
void Maker::complete(const image::LinkEntry& link) {
  auto begin = [&](kernel::Messages& message) {
    message.begin(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK,
                  kernel::bytes_of(head_with(link.index())));
  };
  if (link.has_alias()) {
    kernel::Messages message;
    begin(message);
    message.attribute(IFLA_IFALIAS, link.alias());
    send(message, "name", link);
  }
  if (!link.has_master()) return;
  auto master = by_index_.find(link.master());
  if (master == by_index_.end() || master->second->kind() != bridge)
    fail(link, "belongs to no bridge");
  kernel::Messages enslave, options;
  begin(enslave);
  enslave.attribute(IFLA_MASTER, kernel::bytes_of(link.master()));
  send(enslave, "put a bridge over", link);
  begin(options);
  options.nest(IFLA_LINKINFO, [&] {
    options.text(IFLA_INFO_SLAVE_KIND, bridge);
    options.nest(IFLA_INFO_SLAVE_DATA, [&] { add_data(options, link.port(), of_bridge_port); });
  });
  send(options, "set what a bridge does with", link);
}

void Maker::send(const kernel::Messages& message, const char* operation,
                 const image::LinkEntry& link) {
  netlink_.send(message, message.last(), operation, subject(link.name()));
}

// A key among the sysctls sets the mode along with it.
void Maker::set_address_mode(const image::LinkEntry& link) {
  if (!link.has_address_mode()) return;
  kernel::Messages message;
  message.begin(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, kernel::bytes_of(head_with(link.index())));
  message.nest(IFLA_AF_SPEC, [&] {
    message.nest(AF_INET6, [&] {
      message.attribute(IFLA_INET6_ADDR_GEN_MODE,
                        kernel::bytes_of(static_cast<uint8_t>(link.address_mode())));
    });
  });
  send(message, "choose the IPv6 addresses of", link);
}

void Maker::set_flags(const image::LinkEntry& link) {
  kernel::Messages message;
  auto head = head_with(link.index(), link.flags() & settable_flags, settable_flags);
  message.begin(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, kernel::bytes_of(head));
  send(message, "set the flags of", link);
}

void Maker::make() {
  for (const auto* link : order_) create(*link);
  for (const auto* link : order_) complete(*link);
  for (const auto* link : order_) restore_sysctls(*link);
  // In this order, as what is on a link goes up with it.
  for (const auto* link : order_) {
    set_address_mode(*link);
    set_flags(*link);
  }
}

}  // namespace

std::vector<Finding> link_obstacles() {
  std::vector<Finding> findings;
  each_link([&](const Link& link, const std::string& what, const auto&) {
    if (!what.empty()) findings.push_back({subject(link.name), what, remedy});
  });
  return findings;
}

std::vector<image::LinkEntry> read_links(bool runtime_cares, Log& log) {
  std::vector<image::LinkEntry> entries;
  each_link([&](const Link& link, const std::string& what, const std::set<uint32_t>& indexes) {
    if (what.empty())
      entries.push_back(entry_of(link, indexes));
    else if (runtime_cares)
      log.warn("The {} {}: it isn't taken along, and is the runtime's to make", subject(link.name),
               what);
    else
      throw Error("dump", subject(link.name)).because("it " + what).hint(remedy);
  });
  return entries;
}

void restore_links(const Links& links, Log& log) {
  if (!links.empty()) Maker(links, log).make();
}

std::set<uint32_t> link_indexes(const Links& links) {
  std::set<uint32_t> indexes{loopback_index};
  for (const image::LinkEntry& link : links) indexes.insert(link.index());
  return indexes;
}

}  // namespace stasis::engine::net
