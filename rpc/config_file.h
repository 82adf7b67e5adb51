// Configuration files in CRIU's form: one long option a line without its
// dashes, the value after blanks, "#" starts a comment, a value may stand in
// double quotes (\" is a quote inside).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace stasis::rpc {

struct ConfigLine {
  int number = 0;      // in the file, from 1
  std::string option;  // "tcp-established"
  std::string value;   // empty when there is none
};

// `name` is for messages. Throws Error naming the line.
std::vector<ConfigLine> parse_config(std::string_view text, std::string_view name);

}  // namespace stasis::rpc
