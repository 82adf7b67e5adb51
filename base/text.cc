#include "base/text.h"

#include <fmt/core.h>

#include <algorithm>
#include <set>
#include <utility>

namespace stasis::text {

namespace {
constexpr std::string_view blanks = " \t\r\n";

// Letters to put in, take out or change.
size_t distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      size_t change = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, change});
    }
  }
  return row[b.size()];
}

std::string_view last_part(std::string_view path) { return path.substr(path.rfind('/') + 1); }

}  // namespace

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

std::string unescape(std::string_view s) {
  std::string out;
  out.reserve(s.size());
  for (size_t i = 0; i < s.size(); ++i) {
    if (s[i] == '\\' && i + 3 < s.size()) {
      auto value = to_int<unsigned>(s.substr(i + 1, 3), 8);
      if (value && *value < 256) {
        out += static_cast<char>(*value);
        i += 3;
        continue;
      }
    }
    out += s[i];
  }
  return out;
}

std::string escape(std::string_view s) {
  std::string out;
  for (char c : s) {
    if (c != '\\' && blanks.find(c) == std::string_view::npos)
      out += c;
    else
      out += fmt::format("\\{:03o}", static_cast<unsigned char>(c));
  }
  return out;
}

std::vector<std::string> nearest(std::string_view word,
                                 const std::vector<std::string>& candidates) {
  constexpr size_t most = 3;
  std::set<std::pair<size_t, std::string>> near;
  for (const std::string& candidate : candidates) {
    size_t away = distance(word, candidate);
    bool same_end = !last_part(word).empty() && last_part(word) == last_part(candidate);
    if (away <= 1 + word.size() / 4 || same_end) near.emplace(away, candidate);
  }
  std::vector<std::string> result;
  for (const auto& [away, candidate] : near)
    if (result.size() < most) result.push_back(candidate);
  return result;
}

std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates) {
  std::string result;
  for (const std::string& candidate : nearest(word, candidates))
    result += (result.empty() ? ": did you mean " : " or ") + candidate;
  return result.empty() ? result : result + "?";
}

}  // namespace stasis::text
