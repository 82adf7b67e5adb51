// Providers from files: shared objects with the interface of stasis_mount.h.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "mountmap/mount_provider.h"

namespace stasis::plugins {

constexpr const char* default_plugin_dir = "/usr/lib/stasis/plugins";

// All *.so files of a directory. Nobody but root may be able to change them or
// what leads to them. Throws Error for a file that is no plugin for this stasis.
std::vector<std::unique_ptr<mountmap::MountProvider>> load_plugins(const std::string& directory);

}  // namespace stasis::plugins
