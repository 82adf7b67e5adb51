// Network namespace: loopback as it was. Other links are the runtime's.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "netdev.pb.h"

namespace stasis::engine::net {

// Names in the text of /proc/PID/net/dev.
std::vector<std::string> parse_devices(std::string_view text);

// Of the calling thread's namespace.
image::NetDeviceEntry read_loopback();
image::NetnsEntry read_settings();

void restore_loopback(const image::NetDeviceEntry& device);
void bring_loopback_up();
void restore_settings(const image::NetnsEntry& settings);

}  // namespace stasis::engine::net
