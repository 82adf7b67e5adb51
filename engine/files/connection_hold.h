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

  // They stay when we have ended, until the same connections are lifted.
  void stay();
  // Ends them, those that stayed from before, too.
  void lift();

 private:
  kernel::Netlink netlink_;
  std::vector<InetEnds> connections_;
  std::string name_;  // of the table that stays; the same for the same connections
};

}  // namespace stasis::engine::files
