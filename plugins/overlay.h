// overlayfs as a container's root: its layers are in the mount's options.
#pragma once

#include <string>
#include <vector>

#include "mountmap/mount_provider.h"

namespace stasis::plugins {

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
