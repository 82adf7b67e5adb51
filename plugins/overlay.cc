#include "plugins/overlay.h"

#include <unistd.h>

#include "base/error.h"
#include "base/text.h"
#include "kernel/mount_api.h"

namespace stasis::plugins {

namespace {

// A backslash takes away what a comma or a colon means.
std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == separator) {
      parts.emplace_back();
      continue;
    }
    parts.back() += text[i];
    if (text[i] == '\\' && i + 1 < text.size()) parts.back() += text[++i];
  }
  return parts;
}

bool names_a_layer(const std::string& option) {
  for (const char* known : {"lowerdir", "lowerdir+", "datadir+", "upperdir", "workdir"})
    if (option == known) return true;
  return false;
}

}  // namespace

std::vector<OverlayLayer> overlay_layers(const std::string& options) {
  std::vector<OverlayLayer> layers;
  for (const std::string& word : split(options, ',')) {
    size_t equals = word.find('=');
    std::string option = word.substr(0, equals);
    if (equals == word.npos || !names_a_layer(option)) continue;
    std::string value = word.substr(equals + 1);
    if (option != "lowerdir") {
      layers.push_back({option, value});
      continue;
    }
    for (const std::string& path : split(value, ':'))
      if (!path.empty()) layers.push_back({option, path});  // "::" goes before data layers
  }
  return layers;
}

std::vector<std::string> Overlay::explain(const std::string& description) const {
  std::vector<std::string> lines;
  for (const OverlayLayer& layer : overlay_layers(description))
    lines.push_back(layer.option + " : " + layer.path);
  return lines;
}

UniqueFd Overlay::make(const std::string& description) const {
  for (const OverlayLayer& layer : overlay_layers(description))
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
