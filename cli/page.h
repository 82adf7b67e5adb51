// What commands print for people: lines, tables, colours where it is a
// terminal.
#pragma once

#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "mountmap/mount_map.h"

namespace stasis::cli {

// A container chooses names in its mount table: none of them may move the
// cursor of the person's terminal.
std::string printable(std::string_view s);

struct Cell {
  std::string text;
  std::string_view style = "";  // of ECMA-48: "1;31"
  bool right = false;           // a number
};
using Cells = std::vector<Cell>;

class Page {
 public:
  Page(FILE* out, bool color) : out_(out), color_(color) {}

  void line(std::string_view s = "");
  std::string paint(std::string_view style, std::string_view s) const;
  // Columns aligned; the first row is the heading.
  void table(const std::vector<Cells>& rows);

 private:
  FILE* out_;
  bool color_;
};

std::string_view style_of(mountmap::MountClass kind);
std::string_view style_of(mountmap::Severity severity);

}  // namespace stasis::cli
