// The hooks.d files by which podman, CRI-O and containerd's NRI injector call the
// hook for containers with our annotations, and for no others.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace stasis::hook {

constexpr const char* default_hooks_dir = "/usr/share/containers/oci/hooks.d";

struct HookFile {
  std::string name, text;
};
std::vector<HookFile> hook_files(const std::string& binary);

// Return the paths written, or removed.
std::vector<std::string> install(const std::string& directory, const std::string& binary);
std::vector<std::string> uninstall(const std::string& directory);

}  // namespace stasis::hook
