// The directories that an overlay file system is made of, as its options tell.
#pragma once

#include <string>
#include <vector>

namespace stasis::mountmap {

struct OverlayOption {
  std::string name, value;  // no value: empty
};

// A backslash keeps a comma within an option.
std::vector<OverlayOption> overlay_options(const std::string& text);

// Whether its value names directories.
bool is_layer_option(const std::string& option);

struct OverlayLayer {
  std::string option;  // "lowerdir", "upperdir", "workdir" ..
  std::string path;
};

// Of the options as mountinfo shows them; the topmost lower layer first.
std::vector<OverlayLayer> overlay_layers(const std::string& options);

// A layer's path without the backslashes that keep commas and colons in it.
std::string unescaped(const std::string& path);

}  // namespace stasis::mountmap
