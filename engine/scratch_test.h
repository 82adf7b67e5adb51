// For tests: a directory of its own, removed with all that is in it.
#pragma once

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "kernel/fs.h"

namespace stasis::engine {

class Scratch {
 public:
  Scratch() {
    REQUIRE(mkdtemp(path_.data()));
    fd_ = kernel::open(path_, O_RDONLY | O_DIRECTORY);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::filesystem::remove_all(path_); }

  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }
  int fd() const { return fd_.get(); }

 private:
  std::string path_ = "/tmp/stasis-unit-XXXXXX";
  UniqueFd fd_;
};

}  // namespace stasis::engine
