// overlayfs as a container's root: its layers are in the mount's options.
#pragma once

#include <string>
#include <vector>

#include "mountmap/mount_provider.h"

namespace stasis::plugins {

struct OverlayLayer {
  std::string option;  // "lowerdir", "upperdir", "workdir" ..
  std::string path;
};

// Of the options as mountinfo shows them; the topmost lower layer first.
std::vector<OverlayLayer> overlay_layers(const std::string& options);

class Overlay : public mountmap::MountProvider {
 public:
  std::string name() const override { return "overlay"; }
  bool claims(const mountmap::Mount& mount) const override {
    return mount.fstype == "overlay" && mount.mountpoint == "/";
  }
  std::string describe(const mountmap::Mount& mount) const override { return mount.sb_options; }
  std::vector<std::string> explain(const std::string& description) const override;
  UniqueFd make(const std::string& description) const override;
};

}  // namespace stasis::plugins
