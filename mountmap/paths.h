// Paths as mount tables have them: absolute and clean.
#pragma once

#include <string>
#include <string_view>

namespace stasis::mountmap {

// `path` lies in `directory` or is it; "/a/bc" is not in "/a/b".
bool inside(std::string_view path, std::string_view directory);

// A path inside `from`, moved to the same place inside `to`.
std::string rebase(std::string_view path, std::string_view from, std::string_view to);

}  // namespace stasis::mountmap
