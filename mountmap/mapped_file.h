// A file that a process has mapped, where the kernel doesn't tell its path in
// the container but one of the layers that the container's root is made from.
#pragma once

#include <functional>
#include <optional>
#include <string>

namespace stasis::mountmap {

struct MappedFile {
  std::string path;     // in the container
  bool current = true;  // the path still leads to it; else a layer above has another, or none
};

// From a link of /proc/PID/map_files; nothing where that is no layer's.
using FindMappedFile = std::function<std::optional<MappedFile>(const std::string& link)>;

}  // namespace stasis::mountmap
