#include "rpc/config_file.h"

#include <fmt/core.h>

#include "base/error.h"
#include "base/text.h"

namespace stasis::rpc {
namespace {

constexpr std::string_view blanks = " \t";

// Takes a quoted value off `rest`, which starts behind the opening quote.
// Returns false when the closing quote is missing.
bool take_quoted(std::string_view& rest, std::string& value) {
  for (size_t i = 0; i < rest.size(); ++i) {
    if (rest[i] == '\\' && i + 1 < rest.size() && rest[i + 1] == '"') {
      value += rest[++i];
    } else if (rest[i] == '"') {
      rest.remove_prefix(i + 1);
      return true;
    } else {
      value += rest[i];
    }
  }
  return false;
}

std::string_view without_comment(std::string_view s) {
  return text::trim(s.substr(0, s.find('#')));
}

ConfigLine parse_line(std::string_view line, int number, std::string_view name) {
  auto fail = [&](std::string_view why) {
    return Error("read", fmt::format("{}:{}", name, number))
        .because(std::string(why))
        .hint("write one option a line, as in: work-dir \"/var/lib/my work\"");
  };
  ConfigLine result{.number = number, .option = {}, .value = {}};
  size_t end = line.find_first_of(" \t#");
  result.option = line.substr(0, end);
  if (result.option.starts_with("--")) throw fail("an option stands here without its dashes");
  std::string_view rest = end == line.npos ? std::string_view{} : text::trim(line.substr(end));
  if (rest.starts_with('"')) {
    rest.remove_prefix(1);
    if (!take_quoted(rest, result.value)) throw fail("the closing quote is missing");
    if (!without_comment(rest).empty()) throw fail("more than one value");
    return result;
  }
  rest = without_comment(rest);
  if (rest.find_first_of(blanks) != rest.npos)
    throw fail("more than one value; one with blanks needs quotes");
  result.value = rest;
  return result;
}

}  // namespace

std::vector<ConfigLine> parse_config(std::string_view text, std::string_view name) {
  std::vector<ConfigLine> lines;
  for (int number = 1; !text.empty(); ++number) {
    std::string_view line = text::trim(text::next(text, '\n'));
    if (line.empty() || line.front() == '#') continue;
    lines.push_back(parse_line(line, number, name));
  }
  return lines;
}

}  // namespace stasis::rpc
