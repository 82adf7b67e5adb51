// What the /proc parsers share: numbers that must be numbers.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"
#include "base/text.h"

namespace stasis::kernel {

[[noreturn]] inline void bad_field(std::string_view file, std::string_view field,
                                   std::string_view value) {
  throw Error("read", "/proc/PID/" + std::string(file))
      .because(std::string(field) + ": unexpected value \"" + std::string(value.substr(0, 80)) +
               "\"");
}

[[noreturn]] inline void missing_field(std::string_view file, std::string_view field) {
  throw Error("read", "/proc/PID/" + std::string(file)).because(std::string(field) + " is missing");
}

template <typename Int>
Int proc_number(std::string_view file, std::string_view field, std::string_view value,
                int base = 10) {
  auto number = text::to_int<Int>(value, base);
  if (!number) bad_field(file, field, value);
  return *number;
}

}  // namespace stasis::kernel
