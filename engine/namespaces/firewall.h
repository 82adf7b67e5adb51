// What the firewall of a network namespace holds.
#pragma once

#include <string>
#include <vector>

namespace stasis::engine::net {

// "the nftables table filter", "rules in the iptables table nat", of the calling
// thread's namespace. Tables as they are made, empty, aren't named.
std::vector<std::string> firewall_rules();

}  // namespace stasis::engine::net
