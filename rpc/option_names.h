// CRIU's options by their long names, as configuration files hold them.
#pragma once

#include <string>
#include <string_view>

#include "rpc/settings.h"

namespace stasis::rpc {

// "tcp-established", "work-dir" + path, "manage-cgroups=soft", "no-shell-job".
// Throws Error for an option that doesn't exist, lacks its value or has one too many.
void apply_option(Settings& settings, std::string_view option, const std::string& argument);

// Applies the file if it exists. It decides where root writes, so it must
// belong to root (or to us) and be writable by nobody else.
void apply_config_file(Settings& settings, const std::string& path);

}  // namespace stasis::rpc
