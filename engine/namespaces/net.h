// Network namespace: loopback as it was. Other links: links.h.
#pragma once

#include "netdev.pb.h"

namespace stasis::engine::net {

// Of the calling thread's namespace.
image::NetDeviceEntry read_loopback();
image::NetnsEntry read_settings();

void restore_loopback(const image::NetDeviceEntry& device);
void bring_loopback_up();
void restore_settings(const image::NetnsEntry& settings);

}  // namespace stasis::engine::net
