#include "plugins/overlay.h"

#include <unistd.h>

#include "base/error.h"
#include "kernel/mount_api.h"
#include "mountmap/overlay_layers.h"

namespace stasis::plugins {

std::vector<std::string> Overlay::explain(const std::string& description) const {
  std::vector<std::string> lines;
  for (const mountmap::OverlayLayer& layer : mountmap::overlay_layers(description))
    lines.push_back(layer.option + " : " + layer.path);
  return lines;
}

UniqueFd Overlay::make(const std::string& description) const {
  for (const mountmap::OverlayLayer& layer : mountmap::overlay_layers(description))
    if (!layer.path.starts_with('/'))
      throw Error("mount the overlay", "")
          .because("its layer " + layer.path + " is told relative to a directory that isn't known")
          .hint("Mount it by the program that made it.");
  if (description.size() >= static_cast<size_t>(sysconf(_SC_PAGESIZE)))
    throw Error("mount the overlay", "")
        .because("its layers need more than a page")
        .hint("Mount it by the program that made it.");
  return kernel::mount_by_data("overlay", "overlay", {description});
}

}  // namespace stasis::plugins
