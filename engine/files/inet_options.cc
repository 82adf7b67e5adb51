#include "engine/files/inet_options.h"

#include <fmt/core.h>
#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <vector>

#include "engine/files/socket_options.h"
#include "kernel/socket.h"

#ifndef IP_NODEFRAG
#define IP_NODEFRAG 22
#endif
#ifndef IPV6_FREEBIND
#define IPV6_FREEBIND 78
#endif

namespace stasis::engine::files {

namespace {

// linux/icmp.h and netinet/icmp6.h: where these filters stand.
constexpr int raw_icmp_filter = 1, icmp6_filter_option = 1;

bool is_six(const image::InetSkEntry& entry) { return entry.family() == AF_INET6; }

struct Filter {
  int level, option, words;
};
// What a raw ICMP socket lets through; words 0: the socket has none.
Filter icmp_filter_of(const image::InetSkEntry& entry) {
  if (!is_six(entry) && entry.proto() == IPPROTO_ICMP) return {SOL_RAW, raw_icmp_filter, 1};
  if (is_six(entry) && entry.proto() == IPPROTO_ICMPV6)
    return {IPPROTO_ICMPV6, icmp6_filter_option, 8};
  return {0, 0, 0};
}

void dump_raw(int fd, image::InetSkEntry& entry) {
  image::IpOptsRawEntry& raw = *entry.mutable_ip_opts()->mutable_raw();
  if (get_option(fd, is_six(entry) ? IPPROTO_IPV6 : IPPROTO_IP,
                 is_six(entry) ? IPV6_HDRINCL : IP_HDRINCL))
    raw.set_hdrincl(true);
  if (!is_six(entry) && get_option(fd, IPPROTO_IP, IP_NODEFRAG)) raw.set_nodefrag(true);
  Filter filter = icmp_filter_of(entry);
  if (filter.words == 0) return;
  std::vector<uint32_t> words(static_cast<size_t>(filter.words));
  socklen_t size = static_cast<socklen_t>(words.size() * sizeof words[0]);
  kernel::must(kernel::call(SYS_getsockopt, fd, filter.level, filter.option, words.data(), &size),
               "read the filter of", "a raw socket");
  for (uint32_t word : words) raw.add_icmpv_filter(word);
}

void restore_raw(int fd, const image::InetSkEntry& entry) {
  const image::IpOptsRawEntry& raw = entry.ip_opts().raw();
  if (raw.nodefrag() && !is_six(entry)) set_option(fd, IPPROTO_IP, IP_NODEFRAG, 1);
  if (raw.has_hdrincl())
    set_option(fd, is_six(entry) ? IPPROTO_IPV6 : IPPROTO_IP,
               is_six(entry) ? IPV6_HDRINCL : IP_HDRINCL, raw.hdrincl());
  Filter filter = icmp_filter_of(entry);
  if (filter.words == 0 || raw.icmpv_filter_size() != filter.words) return;
  kernel::must(kernel::call(SYS_setsockopt, fd, filter.level, filter.option,
                            raw.icmpv_filter().data(), filter.words * sizeof(uint32_t)),
               "set the filter of", "a raw socket");
}

void dump_tcp(int fd, image::TcpOptsEntry& tcp) {
  if (get_option(fd, IPPROTO_TCP, TCP_NODELAY)) tcp.set_nodelay(true);
  if (get_option(fd, IPPROTO_TCP, TCP_CORK)) tcp.set_cork(true);
  tcp.set_keepcnt(get_option(fd, IPPROTO_TCP, TCP_KEEPCNT));
  tcp.set_keepidle(get_option(fd, IPPROTO_TCP, TCP_KEEPIDLE));
  tcp.set_keepintvl(get_option(fd, IPPROTO_TCP, TCP_KEEPINTVL));
}

void restore_tcp(int fd, const image::InetSkEntry& entry) {
  const image::TcpOptsEntry& tcp = entry.tcp_opts();
  const image::SkOptsEntry& old = entry.opts();  // where older images have them
  auto restore = [&](int option, uint32_t value, bool there) {
    if (there && value && get_option(fd, IPPROTO_TCP, option) != value)
      set_option(fd, IPPROTO_TCP, option, value);
  };
  restore(TCP_KEEPCNT, old.tcp_keepcnt(), old.has_tcp_keepcnt());
  restore(TCP_KEEPIDLE, old.tcp_keepidle(), old.has_tcp_keepidle());
  restore(TCP_KEEPINTVL, old.tcp_keepintvl(), old.has_tcp_keepintvl());
  restore(TCP_KEEPCNT, tcp.keepcnt(), tcp.has_keepcnt());
  restore(TCP_KEEPIDLE, tcp.keepidle(), tcp.has_keepidle());
  restore(TCP_KEEPINTVL, tcp.keepintvl(), tcp.has_keepintvl());
  restore(TCP_NODELAY, tcp.nodelay(), tcp.has_nodelay());
  restore(TCP_CORK, tcp.cork(), tcp.has_cork());
}

}  // namespace

uint32_t get_option(int fd, int level, int option) {
  return kernel::socket_option<uint32_t>(fd, level, option, "read a socket's option",
                                         fmt::format("{}/{}", level, option));
}

void set_option(int fd, int level, int option, uint32_t value) {
  kernel::set_socket_option(fd, level, option, value, "set a socket's option",
                            fmt::format("{}/{}", level, option));
}

void dump_inet_options(int fd, image::InetSkEntry& entry) {
  image::IpOptsEntry& ip = *entry.mutable_ip_opts();
  if (is_six(entry)) {
    entry.set_v6only(get_option(fd, IPPROTO_IPV6, IPV6_V6ONLY) != 0);
    if (get_option(fd, IPPROTO_IPV6, IPV6_FREEBIND)) ip.set_freebind(true);
    if (get_option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO)) ip.set_pktinfo(true);
  } else {
    if (get_option(fd, IPPROTO_IP, IP_FREEBIND)) ip.set_freebind(true);
    if (get_option(fd, IPPROTO_IP, IP_PKTINFO)) ip.set_pktinfo(true);
    if (uint32_t tos = get_option(fd, IPPROTO_IP, IP_TOS)) ip.set_tos(tos);
    if (uint32_t ttl = get_option(fd, IPPROTO_IP, IP_TTL)) ip.set_ttl(ttl);
  }
  if (entry.type() == SOCK_RAW)
    dump_raw(fd, entry);
  else if (entry.proto() == IPPROTO_TCP)
    dump_tcp(fd, *entry.mutable_tcp_opts());
  *entry.mutable_opts() = dump_socket_options(fd);
}

void restore_binding_options(int fd, const image::InetSkEntry& entry) {
  // Nobody may set it for a raw socket.
  if (is_six(entry) && entry.has_v6only() &&
      (get_option(fd, IPPROTO_IPV6, IPV6_V6ONLY) != 0) != entry.v6only())
    set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, entry.v6only());
  if (entry.ip_opts().freebind())
    set_option(fd, is_six(entry) ? IPPROTO_IPV6 : IPPROTO_IP,
               is_six(entry) ? IPV6_FREEBIND : IP_FREEBIND, 1);
  restore_bound_device(fd, entry.opts());
}

void restore_inet_options(int fd, const image::InetSkEntry& entry) {
  const image::IpOptsEntry& ip = entry.ip_opts();
  if (is_six(entry)) {
    if (ip.pktinfo()) set_option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
  } else {
    if (ip.pktinfo()) set_option(fd, IPPROTO_IP, IP_PKTINFO, 1);
    if (ip.has_tos()) set_option(fd, IPPROTO_IP, IP_TOS, ip.tos());
    // The value of the system's, which is read where none was set, is set by 0 only.
    if (ip.has_ttl() && ip.ttl() != get_option(fd, IPPROTO_IP, IP_TTL))
      set_option(fd, IPPROTO_IP, IP_TTL, ip.ttl());
  }
  if (entry.type() == SOCK_RAW)
    restore_raw(fd, entry);
  else if (entry.proto() == IPPROTO_TCP)
    restore_tcp(fd, entry);
  restore_socket_options(fd, entry.opts());
}

}  // namespace stasis::engine::files
