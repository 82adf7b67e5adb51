#include "mountmap/overlay_layers.h"

namespace stasis::mountmap {

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

}  // namespace

bool is_layer_option(const std::string& option) {
  for (const char* known : {"lowerdir", "lowerdir+", "datadir+", "upperdir", "workdir"})
    if (option == known) return true;
  return false;
}

std::vector<OverlayOption> overlay_options(const std::string& text) {
  std::vector<OverlayOption> options;
  for (const std::string& word : split(text, ',')) {
    size_t equals = word.find('=');
    if (!word.empty())
      options.push_back(
          {word.substr(0, equals), equals == word.npos ? "" : word.substr(equals + 1)});
  }
  return options;
}

std::vector<OverlayLayer> overlay_layers(const std::string& options) {
  std::vector<OverlayLayer> layers;
  for (const auto& [option, value] : overlay_options(options)) {
    if (!is_layer_option(option)) continue;
    if (option != "lowerdir") {
      layers.push_back({option, value});
      continue;
    }
    for (const std::string& path : split(value, ':'))
      if (!path.empty()) layers.push_back({option, path});  // "::" goes before data layers
  }
  return layers;
}

std::string unescaped(const std::string& path) {
  std::string plain;
  for (size_t i = 0; i < path.size(); ++i)
    plain += path[i] == '\\' && i + 1 < path.size() ? path[++i] : path[i];
  return plain;
}

}  // namespace stasis::mountmap
