// Holds TCP connections: rules of nftables that drop every packet of theirs, so
// that nobody answers for a socket that is gone or not whole yet. Packets that
// carry segment_mark pass.
#pragma once

#include <string>
#include <vector>

#include "engine/files/inet_address.h"
#include "kernel/netlink.h"

namespace stasis::engine::files {

class ConnectionHold {
 public:
  // In the network namespace of the calling thread. The rules end with this,
  // and with our process, however that ends.
  explicit ConnectionHold(std::vector<InetEnds> connections);

  // Names the rules that stay when we have ended, until a restore lifts them:
  // in a table as CRIU calls its own, so that it finds ours and we find its.
  const std::string& id() const { return id_; }
  void stay();
  // Ends the rules, and those that stayed as `id`.
  void lift(const std::string& id);

 private:
  kernel::Netlink netlink_;
  std::vector<InetEnds> connections_;
  std::string id_;  // the same for the same connections
};

}  // namespace stasis::engine::files
