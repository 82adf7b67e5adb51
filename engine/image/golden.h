// Golden images for tests: checkpoints that CRIU 4.1.1 and 4.2 wrote of two
// runc containers (test/interop/make-golden), read into memory.
#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>

namespace stasis::image {

using Images = std::map<std::string, std::string>;  // by stem

inline Images golden(const std::string& which) {
  Images images;
  for (const auto& file : std::filesystem::directory_iterator(STASIS_FIXTURES "/images/" + which)) {
    std::ifstream in(file.path(), std::ios::binary);
    images[file.path().stem().string()] = {std::istreambuf_iterator<char>(in), {}};
  }
  return images;
}

}  // namespace stasis::image
