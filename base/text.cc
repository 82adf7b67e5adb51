#include "base/text.h"

namespace stasis::text {

namespace {
constexpr std::string_view blanks = " \t\r\n";
}

std::string_view trim(std::string_view s) {
  auto first = s.find_first_not_of(blanks);
  if (first == std::string_view::npos) return {};
  return s.substr(first, s.find_last_not_of(blanks) - first + 1);
}

std::vector<std::string_view> split(std::string_view s, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    auto at = s.find(separator);
    parts.push_back(s.substr(0, at));
    if (at == std::string_view::npos) return parts;
    s.remove_prefix(at + 1);
  }
}

std::vector<std::string_view> words(std::string_view s) {
  std::vector<std::string_view> parts;
  for (;;) {
    auto first = s.find_first_not_of(blanks);
    if (first == std::string_view::npos) return parts;
    s.remove_prefix(first);
    auto end = s.find_first_of(blanks);
    parts.push_back(s.substr(0, end));
    if (end == std::string_view::npos) return parts;
    s.remove_prefix(end);
  }
}

std::string_view next(std::string_view& rest, char separator) {
  auto at = rest.find(separator);
  auto part = rest.substr(0, at);
  rest.remove_prefix(at == std::string_view::npos ? rest.size() : at + 1);
  return part;
}

}  // namespace stasis::text
