// A TCP packet without data, as if it came from the network.
#pragma once

#include <cstdint>
#include <string>

#include "engine/files/inet_address.h"

namespace stasis::engine::files {

// Packets of ours carry this mark, by which the rules that hold a connection
// let them pass, CRIU's as well.
constexpr uint32_t segment_mark = 0xc114;

struct Segment {
  InetAddress from, to;
  uint32_t sequence = 0, acknowledged = 0;
  uint16_t window = 0;
  bool fin = false;  // besides ACK
};

// With its IPv4 or IPv6 header.
std::string packet_of(const Segment& segment);

// To a socket in the calling thread's network namespace, by its loopback.
void send_segment(const Segment& segment);

}  // namespace stasis::engine::files
