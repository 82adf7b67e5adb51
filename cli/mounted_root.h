// `stasis restore --mount-root`: the container's root file system, laid together
// from the layers that its image names.
#pragma once

#include <string>

#include "engine/image/checkpoint.h"

namespace stasis::cli {

class MountedRoot {
 public:
  // On the directory `path`. Throws where the image doesn't tell of what the
  // root was made, or where something is mounted already.
  MountedRoot(const image::Checkpoint& image, const std::string& path);
  MountedRoot(const MountedRoot&) = delete;
  MountedRoot& operator=(const MountedRoot&) = delete;
  // Unmounts it again, unless it was kept.
  ~MountedRoot();
  void keep() { path_.clear(); }

 private:
  std::string path_;
};

}  // namespace stasis::cli
