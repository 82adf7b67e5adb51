// For the tests of this room.
#pragma once

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace stasis::plugins {

// A directory of its own, removed with all that is in it.
struct Directory {
  Directory() {
    std::string name = std::filesystem::temp_directory_path() / "stasis-plugins-XXXXXX";
    REQUIRE(mkdtemp(name.data()));
    path = name;
  }
  ~Directory() { std::filesystem::remove_all(path); }

  std::string write(const std::filesystem::path& name, std::string_view text) const {
    std::filesystem::create_directories((path / name).parent_path());
    std::ofstream(path / name) << text;
    return path / name;
  }

  std::filesystem::path path;
};

}  // namespace stasis::plugins
