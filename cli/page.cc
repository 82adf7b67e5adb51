#include "cli/page.h"

#include <fmt/core.h>

#include <algorithm>

namespace stasis::cli {

std::string printable(std::string_view s) {
  std::string out;
  for (unsigned char c : s) {
    if (c < 0x20 || c == 0x7f)
      out += fmt::format("\\{:03o}", c);
    else
      out += static_cast<char>(c);
  }
  return out;
}

void Page::line(std::string_view s) { fmt::print(out_, "{}\n", s); }

std::string Page::paint(std::string_view style, std::string_view s) const {
  return color_ && !style.empty() ? fmt::format("\033[{}m{}\033[0m", style, s) : std::string(s);
}

void Page::table(const std::vector<Cells>& rows) {
  std::vector<size_t> width(rows.front().size());
  for (const Cells& row : rows)
    for (size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], row[i].text.size());
  for (const Cells& row : rows) {
    std::string text;
    for (size_t i = 0; i < row.size(); ++i) {
      bool last = i + 1 == row.size();
      std::string cell = row[i].right ? fmt::format("{:>{}}", row[i].text, width[i])
                         : last       ? row[i].text
                                      : fmt::format("{:<{}}", row[i].text, width[i]);
      text += paint(row[i].style, cell);
      if (!last) text += "  ";
    }
    line(&row == &rows.front() ? paint("1", text) : text);
  }
}

std::string_view style_of(mountmap::MountClass kind) {
  if (kind == mountmap::MountClass::external) return "33";
  if (kind == mountmap::MountClass::skipped) return "31";
  return kind == mountmap::MountClass::root ? "1" : "32";
}

std::string_view style_of(mountmap::Severity severity) {
  switch (severity) {
    case mountmap::Severity::note:
      return "36";
    case mountmap::Severity::warning:
      return "33";
    case mountmap::Severity::obstacle:
      return "31";
  }
  return "";
}

}  // namespace stasis::cli
