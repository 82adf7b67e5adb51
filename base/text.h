// Small text helpers for the kernel's and the runtimes' formats. All take
// views into the caller's text and allocate only where they return a string.
#pragma once

#include <charconv>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace stasis::text {

// The whole of `s` as a number in `base`, or nothing.
template <typename Int>
std::optional<Int> to_int(std::string_view s, int base = 10) {
  Int value{};
  auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), value, base);
  if (error != std::errc{} || end != s.data() + s.size()) return std::nullopt;
  return value;
}

std::string_view trim(std::string_view s);
std::vector<std::string_view> split(std::string_view s, char separator);  // keeps empty parts
std::vector<std::string_view> words(std::string_view s);  // by blanks, no empty parts

// Takes the part before `separator` off the front of `rest` (all of it when
// there is none) and returns it; for walking lines and fields without copies.
std::string_view next(std::string_view& rest, char separator);

// The kernel writes blanks, newlines and backslashes in paths as \ooo.
std::string unescape(std::string_view s);
std::string escape(std::string_view s);

// Those of `candidates` that somebody who wrote `word` may have meant, the
// nearest first, three at most.
std::vector<std::string> nearest(std::string_view word, const std::vector<std::string>& candidates);
// ": did you mean A or B?"; empty when nothing is near.
std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace stasis::text
