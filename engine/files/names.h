// Names of a file, looked for in directories: where the kernel tells none.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace stasis::engine::files {

struct Sought {
  uint64_t inode = 0;           // as stat() tells it
  bool numbers_differ = false;  // what directories tell may be others (overlay)
  std::function<bool(int fd)> is_it;
};

// The path of a file beneath `directory`, with a slash in front, on the mount
// that this is on. Gives up where there is too much to look through.
std::optional<std::string> find_beneath(int directory, const Sought& sought);

}  // namespace stasis::engine::files
