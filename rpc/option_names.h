// CRIU's options by their names: one table for configuration files and for
// the command line.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "rpc/settings.h"

namespace stasis::rpc {

enum class Argument { none, required, optional };

struct OptionName {
  using Flag = void (Options::*)(bool);      // also as no-NAME
  using Switch = bool Settings::*;           // likewise
  using Text = std::string* (Options::*)();  // mutable_x or add_x
  using Word = std::string Settings::*;      // a text that no request holds
  using Action = void (*)(Settings&, const std::string& value);

  std::string_view name;
  char letter;  // its short form on the command line, or 0
  Argument argument;
  std::variant<Flag, Switch, Text, Word, Action> what;

  bool negatable() const { return what.index() < 2; }
};
std::span<const OptionName> option_names();

// "tcp-established", "work-dir" + path, "manage-cgroups=soft", "no-shell-job".
// Throws Error for an option that doesn't exist, lacks its value or has one too
// many, and for one that stasis doesn't honour yet.
void apply_option(Settings& settings, std::string_view option, const std::string& argument);

// Applies the file if it exists. It decides where root writes, so it must
// belong to root (or to us) and be writable by nobody else.
void apply_config_file(Settings& settings, const std::string& path);

}  // namespace stasis::rpc
