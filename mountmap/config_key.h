// Where a mount of config.json comes to stand.
#pragma once

#include <string>

#include "oci/config.h"

namespace stasis::mountmap {

// The path in the container that a destination leads to: the root file
// system's symbolic links are followed inside of it, as runc does.
std::string key_of(const oci::Config& config, const std::string& destination);

}  // namespace stasis::mountmap
