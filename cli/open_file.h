// What an open file of a checkpoint is, in a person's words.
#pragma once

#include <string>

#include "engine/image/checkpoint.h"

namespace stasis::cli {

struct OpenFile {
  std::string kind;    // "file", "directory", "pipe", "tcp socket", "eventfd" ...
  std::string access;  // "r", "w", "rw", or empty where it says nothing
  std::string name;    // a path, or what tells it from others of its kind
};

OpenFile describe(const image::Checkpoint& image, const image::FileEntry& file);

}  // namespace stasis::cli
