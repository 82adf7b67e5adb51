// Open files whose path leads elsewhere now, because something was mounted over
// it: they are opened while the tree is built, before what hides them comes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace stasis::image {
struct Checkpoint;
}

namespace stasis::engine::mounts {

struct HiddenFile {
  uint32_t file;     // its id in the image
  uint32_t mount;    // id of the mount it is on
  std::string path;  // relative to that mount's root; "" is the root itself
  bool link = false;
};

std::vector<HiddenFile> hidden_files(const image::Checkpoint& checkpoint);

}  // namespace stasis::engine::mounts
