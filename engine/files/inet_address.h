// Addresses of internet sockets as the image has them: a port, and words in
// network order, one of IPv4 and four of IPv6.
#pragma once

#include <netinet/in.h>

#include <cstdint>
#include <string>

#include "sockets.pb.h"

namespace stasis::engine::files {

struct InetAddress {
  int family = AF_INET;
  uint16_t port = 0;
  uint32_t words[4] = {};
  uint32_t scope = 0;  // interface of a link-local address

  bool any() const;
  bool is_ipv4() const;      // or mapped into IPv6
  uint32_t ipv4() const;     // of those, in network order
  bool link_local() const;   // counts on one link only
  std::string text() const;  // "10.0.0.1:80", "[::1]:80"
};

struct InetEnds {
  InetAddress local, remote;
  bool connected() const { return remote.port != 0; }
  std::string text() const { return local.text() + " to " + remote.text(); }
};

// What the kernel's sockaddr tells, and back.
InetAddress address_of(const sockaddr_storage& from);
socklen_t to_sockaddr(const InetAddress& address, sockaddr_storage& to);

// Of the socket behind our descriptor; without a peer the remote end is empty.
InetEnds read_ends(int fd, int family);

InetEnds ends_of(const image::InetSkEntry& entry);
void set_ends(const InetEnds& ends, image::InetSkEntry& entry);

}  // namespace stasis::engine::files
