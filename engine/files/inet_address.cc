#include "engine/files/inet_address.h"

#include <arpa/inet.h>
#include <fmt/core.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>

#include "kernel/call.h"

namespace stasis::engine::files {

namespace {

int words_of(int family) { return family == AF_INET6 ? 4 : 1; }

}  // namespace

bool InetAddress::any() const {
  return std::all_of(words, words + 4, [](uint32_t word) { return word == 0; });
}

bool InetAddress::is_ipv4() const {
  return family == AF_INET || (words[0] == 0 && words[1] == 0 && words[2] == htonl(0xffff));
}

uint32_t InetAddress::ipv4() const { return family == AF_INET ? words[0] : words[3]; }

bool InetAddress::link_local() const {
  if (family != AF_INET6) return false;
  uint32_t first = ntohl(words[0]);
  bool multicast = first >> 24 == 0xff;
  uint32_t scope_of_it = (first >> 16) & 0xf;
  return multicast ? scope_of_it == 1 || scope_of_it == 2 : first >> 22 == 0xfe80U >> 6;
}

std::string InetAddress::text() const {
  char name[INET6_ADDRSTRLEN] = {};
  inet_ntop(family, words, name, sizeof name);
  return family == AF_INET6 ? fmt::format("[{}]:{}", name, port) : fmt::format("{}:{}", name, port);
}

InetAddress address_of(const sockaddr_storage& from) {
  InetAddress address;
  address.family = from.ss_family;
  if (from.ss_family == AF_INET6) {
    const auto& six = reinterpret_cast<const sockaddr_in6&>(from);
    address.port = ntohs(six.sin6_port);
    address.scope = six.sin6_scope_id;
    memcpy(address.words, &six.sin6_addr, sizeof six.sin6_addr);
  } else {
    const auto& four = reinterpret_cast<const sockaddr_in&>(from);
    address.port = ntohs(four.sin_port);
    memcpy(address.words, &four.sin_addr, sizeof four.sin_addr);
  }
  return address;
}

socklen_t to_sockaddr(const InetAddress& address, sockaddr_storage& to) {
  to = {};
  to.ss_family = static_cast<sa_family_t>(address.family);
  if (address.family == AF_INET6) {
    auto& six = reinterpret_cast<sockaddr_in6&>(to);
    six.sin6_port = htons(address.port);
    six.sin6_scope_id = address.scope;
    memcpy(&six.sin6_addr, address.words, sizeof six.sin6_addr);
    return sizeof six;
  }
  auto& four = reinterpret_cast<sockaddr_in&>(to);
  four.sin_port = htons(address.port);
  memcpy(&four.sin_addr, address.words, sizeof four.sin_addr);
  return sizeof four;
}

InetEnds read_ends(int fd, int family) {
  InetEnds ends;
  ends.local.family = ends.remote.family = family;
  sockaddr_storage name{};
  socklen_t size = sizeof name;
  kernel::must(kernel::call(SYS_getsockname, fd, &name, &size), "read the address of", "a socket");
  ends.local = address_of(name);
  // Unlike getpeername() this tells it of a closed connection, too.
  // The kernel refuses a longer buffer.
  size = family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  long told = kernel::call(SYS_getsockopt, fd, SOL_SOCKET, SO_PEERNAME, &name, &size);
  if (told == -ENOTCONN) return ends;
  kernel::must(told, "read the peer of", "a socket");
  ends.remote = address_of(name);
  return ends;
}

InetEnds ends_of(const image::InetSkEntry& entry) {
  InetEnds ends;
  auto fill = [&](InetAddress& address, uint32_t port, const auto& words) {
    address.family = static_cast<int>(entry.family());
    address.port = static_cast<uint16_t>(port);
    for (int i = 0; i < std::min(words_of(address.family), words.size()); ++i)
      address.words[i] = words[i];
  };
  fill(ends.local, entry.src_port(), entry.src_addr());
  fill(ends.remote, entry.dst_port(), entry.dst_addr());
  return ends;
}

void set_ends(const InetEnds& ends, image::InetSkEntry& entry) {
  entry.set_src_port(ends.local.port);
  entry.set_dst_port(ends.remote.port);
  for (int i = 0; i < words_of(ends.local.family); ++i) {
    entry.add_src_addr(ends.local.words[i]);
    entry.add_dst_addr(ends.remote.words[i]);
  }
}

}  // namespace stasis::engine::files
