#include "mountmap/paths.h"

namespace stasis::mountmap {

bool inside(std::string_view path, std::string_view directory) {
  if (directory == "/") return true;
  return path.starts_with(directory) &&
         (path.size() == directory.size() || path[directory.size()] == '/');
}

std::string rebase(std::string_view path, std::string_view from, std::string_view to) {
  std::string_view rest = from == "/" ? path : path.substr(from.size());
  if (rest == "/" || rest.empty()) return std::string(to);
  return (to == "/" ? std::string() : std::string(to)) + std::string(rest);
}

}  // namespace stasis::mountmap
