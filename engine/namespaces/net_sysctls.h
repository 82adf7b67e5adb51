// The sysctls of a network namespace and its loopback. The calling thread is in it.
#pragma once

#include "netdev.pb.h"

namespace stasis::engine::net {

void read_sysctls(image::NetnsEntry& settings);  // of "all" and "default"
void read_sysctls(image::NetDeviceEntry& loopback);
// Only those that are known, and differ. The image's order tells which is which.
void restore_sysctls(const image::NetnsEntry& settings);
void restore_sysctls(const image::NetDeviceEntry& loopback);

}  // namespace stasis::engine::net
