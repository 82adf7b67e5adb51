#include "engine/files/tcp_segment.h"

#include <arpa/inet.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>

#include <cstring>
#include <string_view>

#include "kernel/socket.h"

namespace stasis::engine::files {

namespace {

template <typename T>
std::string_view bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

// The internet checksum, of an even number of bytes.
uint16_t checksum(std::string_view bytes) {
  uint32_t sum = 0;
  for (size_t i = 0; i + 1 < bytes.size(); i += 2) {
    uint16_t word;
    memcpy(&word, bytes.data() + i, sizeof word);
    sum += word;
  }
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

// TCP's checksum is of the addresses, too.
template <typename Address>
void sum_up(tcphdr& tcp, const Address& from, const Address& to) {
  std::string covered;
  covered += bytes_of(from);
  covered += bytes_of(to);
  covered += bytes_of(htonl(IPPROTO_TCP));
  covered += bytes_of(htonl(sizeof tcp));
  covered += bytes_of(tcp);
  tcp.th_sum = checksum(covered);
}

}  // namespace

std::string packet_of(const Segment& segment) {
  tcphdr tcp{};
  tcp.th_sport = htons(segment.from.port);
  tcp.th_dport = htons(segment.to.port);
  tcp.th_seq = htonl(segment.sequence);
  tcp.th_ack = htonl(segment.acknowledged);
  tcp.th_off = sizeof tcp / 4;
  tcp.th_flags = static_cast<uint8_t>(TH_ACK | (segment.fin ? TH_FIN : 0));
  tcp.th_win = htons(segment.window);
  std::string packet;
  if (segment.to.is_ipv4()) {
    iphdr ip{};
    ip.version = 4;
    ip.ihl = sizeof ip / 4;
    ip.tot_len = htons(sizeof ip + sizeof tcp);
    ip.ttl = 64;
    ip.protocol = IPPROTO_TCP;
    ip.saddr = segment.from.ipv4();
    ip.daddr = segment.to.ipv4();
    ip.check = checksum(bytes_of(ip));
    sum_up(tcp, ip.saddr, ip.daddr);
    packet += bytes_of(ip);
  } else {
    ip6_hdr ip{};
    ip.ip6_vfc = 6 << 4;
    ip.ip6_plen = htons(sizeof tcp);
    ip.ip6_nxt = IPPROTO_TCP;
    ip.ip6_hlim = 64;
    memcpy(&ip.ip6_src, segment.from.words, sizeof ip.ip6_src);
    memcpy(&ip.ip6_dst, segment.to.words, sizeof ip.ip6_dst);
    sum_up(tcp, ip.ip6_src, ip.ip6_dst);
    packet += bytes_of(ip);
  }
  packet += bytes_of(tcp);
  return packet;
}

void send_segment(const Segment& segment) {
  const std::string name = "a packet from " + segment.from.text() + " to " + segment.to.text();
  const bool four = segment.to.is_ipv4();
  long made =
      kernel::call(SYS_socket, four ? AF_INET : AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
  UniqueFd raw(static_cast<int>(kernel::must(made, "send", name)));
  kernel::set_socket_option(raw.get(), SOL_SOCKET, SO_MARK, segment_mark, "send", name);
  InetAddress to = segment.to;
  to.port = 0;  // a raw socket takes a protocol for it
  if (four) {
    to.words[0] = segment.to.ipv4();
    to.family = AF_INET;
  }
  sockaddr_storage address{};
  socklen_t size = to_sockaddr(to, address);
  const std::string packet = packet_of(segment);
  kernel::must(kernel::call(SYS_sendto, raw.get(), packet.data(), packet.size(), 0, &address, size),
               "send", name);
}

}  // namespace stasis::engine::files
