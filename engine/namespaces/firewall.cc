#include "engine/namespaces/firewall.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <linux/netlink.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <cstring>

#include "base/text.h"
#include "engine/namespaces/route_link.h"
#include "kernel/fs.h"

namespace stasis::engine::net {
namespace {

bool is_missing(int code) {
  return code == EOPNOTSUPP || code == EPROTONOSUPPORT || code == EINVAL || code == ENOENT ||
         code == EAFNOSUPPORT || code == ENOPROTOOPT;
}

std::vector<std::string> nft_tables() {
  std::vector<std::string> names;
  try {
    RouteLink link(NETLINK_NETFILTER);
    nfgenmsg any{};
    constexpr uint16_t get_tables = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE;
    for (const std::string& table :
         link.list(get_tables, {reinterpret_cast<const char*>(&any), sizeof any})) {
      std::string_view name = attribute(table, sizeof any, NFTA_TABLE_NAME);
      names.emplace_back(name.substr(0, name.find('\0')));
    }
  } catch (const Error& error) {
    if (!is_missing(error.code())) throw;
  }
  return names;
}

// The old interface, whose two families differ in the sizes of their entries.
struct Four {
  using Info = ipt_getinfo;
  using Entries = ipt_get_entries;
  using Entry = ipt_entry;
  static constexpr int domain = AF_INET, level = SOL_IP;
  static constexpr const char *file = "ip_tables_names", *command = "iptables";
};
struct Six {
  using Info = ip6t_getinfo;
  using Entries = ip6t_get_entries;
  using Entry = ip6t_entry;
  static constexpr int domain = AF_INET6, level = SOL_IPV6;
  static constexpr const char *file = "ip6_tables_names", *command = "ip6tables";
};

// As it is made, a table has an entry for each of its hooks, which accepts all,
// and one behind them.
template <typename Family>
bool has_rules(int socket, const std::string& table) {
  typename Family::Info info{};
  table.copy(info.name, sizeof info.name - 1);
  socklen_t size = sizeof info;
  kernel::must(kernel::call(SYS_getsockopt, socket, Family::level, IPT_SO_GET_INFO, &info, &size),
               "look at", "the table " + table);
  auto hooks = static_cast<unsigned>(__builtin_popcount(info.valid_hooks));
  if (info.num_entries != hooks + 1) return true;
  std::vector<char> buffer(sizeof(typename Family::Entries) + info.size);
  auto* entries = reinterpret_cast<typename Family::Entries*>(buffer.data());
  table.copy(entries->name, sizeof entries->name - 1);
  entries->size = info.size;
  size = static_cast<socklen_t>(buffer.size());
  kernel::must(
      kernel::call(SYS_getsockopt, socket, Family::level, IPT_SO_GET_ENTRIES, buffer.data(), &size),
      "look at", "the table " + table);
  for (unsigned hook = 0; hook < NF_INET_NUMHOOKS; ++hook) {
    if (!(info.valid_hooks >> hook & 1)) continue;
    size_t at = sizeof(typename Family::Entries) + info.underflow[hook];
    typename Family::Entry entry{};
    xt_standard_target target{};
    if (at + sizeof entry > buffer.size()) return true;
    memcpy(&entry, buffer.data() + at, sizeof entry);
    if (at + entry.target_offset + sizeof target > buffer.size()) return true;
    memcpy(&target, buffer.data() + at + entry.target_offset, sizeof target);
    if (target.verdict != -NF_ACCEPT - 1) return true;
  }
  return false;
}

template <typename Family>
void add_old_tables(std::vector<std::string>* found) {
  // Names of tables that this namespace has; no file: no such tables at all.
  const std::string path = std::string("/proc/thread-self/net/") + Family::file;
  long file = kernel::call(SYS_openat, AT_FDCWD, path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file == -ENOENT) return;
  UniqueFd names(static_cast<int>(kernel::must(file, "open", path)));
  const std::string text = kernel::read_all(names.get(), path);
  if (text.empty()) return;
  UniqueFd socket(static_cast<int>(
      kernel::must(kernel::call(SYS_socket, Family::domain, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW),
                   "look at", "the firewall")));
  for (std::string_view name : text::words(text))
    if (std::string table(name); has_rules<Family>(socket.get(), table))
      found->push_back(fmt::format("rules in the {} table {}", Family::command, table));
}

}  // namespace

std::vector<std::string> firewall_rules() {
  std::vector<std::string> found;
  for (const std::string& table : nft_tables()) found.push_back("the nftables table " + table);
  add_old_tables<Four>(&found);
  add_old_tables<Six>(&found);
  return found;
}

}  // namespace stasis::engine::net
