// Reads a whole configuration file. Its own few lines because oci/ stands
// beside kernel/, not on it.
#pragma once

#include <string>

namespace stasis::oci {

std::string read_text_file(const std::string& path);

}  // namespace stasis::oci
