// Internet sockets, in a network of their own.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/socket.h>

#include <cstring>

#include "engine/files/inet_address.h"
#include "engine/files/tcp_segment.h"
#include "engine/files/test_support.h"

namespace stasis::engine::files {

namespace {

InetAddress address(const char* text, uint16_t port) {
  InetAddress made;
  made.family = strchr(text, ':') ? AF_INET6 : AF_INET;
  made.port = port;
  inet_pton(made.family, text, made.words);
  return made;
}

uint16_t ones_sum(std::string_view bytes) {
  uint32_t sum = 0;
  for (size_t i = 0; i + 1 < bytes.size(); i += 2)
    sum += static_cast<uint8_t>(bytes[i]) << 8 | static_cast<uint8_t>(bytes[i + 1]);
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(sum);
}

}  // namespace

TEST_CASE("internet addresses") {
  CHECK(address("10.1.2.3", 80).text() == "10.1.2.3:80");
  CHECK(address("fe80::1", 80).text() == "[fe80::1]:80");
  CHECK(address("fe80::1", 80).link_local());
  CHECK(address("ff02::1", 80).link_local());
  CHECK_FALSE(address("ff05::1", 80).link_local());
  CHECK_FALSE(address("2001:db8::1", 80).link_local());
  CHECK_FALSE(address("254.128.0.1", 80).link_local());
  CHECK(address("::", 1).any());
  CHECK_FALSE(address("::1", 1).any());
  InetAddress mapped = address("::ffff:10.1.2.3", 80);
  CHECK(mapped.is_ipv4());
  CHECK(mapped.ipv4() == address("10.1.2.3", 80).words[0]);
  CHECK_FALSE(address("::10.1.2.3", 80).is_ipv4());

  for (const char* text : {"10.1.2.3", "2001:db8::7"}) {
    sockaddr_storage raw{};
    to_sockaddr(address(text, 1234), raw);
    CHECK(address_of(raw).text() == address(text, 1234).text());
    image::InetSkEntry entry;
    InetEnds ends{address(text, 1), address(text, 65535)};
    entry.set_family(static_cast<uint32_t>(ends.local.family));
    set_ends(ends, entry);
    CHECK(ends_of(entry).text() == ends.text());
  }
}

TEST_CASE("a packet's checksums are right") {
  Segment segment{
      address("10.1.2.3", 80), address("10.4.5.6", 40000), 0x12345678, 0x9abcdef0, 500, true};
  std::string packet = packet_of(segment);
  REQUIRE(packet.size() == 40);
  CHECK(ones_sum(packet.substr(0, 20)) == 0xffff);
  // The pseudo header: both addresses, the protocol and the length.
  std::string covered = packet.substr(12, 8) + std::string("\0\6\0\24", 4) + packet.substr(20);
  CHECK(ones_sum(covered) == 0xffff);
  CHECK(packet.substr(20, 4) == std::string("\0\120\234\100", 4));
  CHECK(static_cast<uint8_t>(packet[33]) == (TH_FIN | TH_ACK));

  segment.from = address("2001:db8::1", 80);
  segment.to = address("2001:db8::2", 40000);
  segment.fin = false;
  packet = packet_of(segment);
  REQUIRE(packet.size() == 60);
  covered = packet.substr(8, 32) + std::string("\0\0\0\24\0\0\0\6", 8) + packet.substr(40);
  CHECK(ones_sum(covered) == 0xffff);
  CHECK(static_cast<uint8_t>(packet[53]) == TH_ACK);
  // One that IPv4 carries for a socket of IPv6.
  segment.from = address("::ffff:10.1.2.3", 80);
  segment.to = address("::ffff:10.4.5.6", 40000);
  CHECK(packet_of(segment).size() == 40);
}

}  // namespace stasis::engine::files
