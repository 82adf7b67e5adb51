// Capabilities by name, as config.json has them.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace stasis::oci {

std::optional<unsigned> capability_number(std::string_view name);  // "CAP_CHOWN" -> 0
std::string capability_name(unsigned number);

}  // namespace stasis::oci
