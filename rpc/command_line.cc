#include "rpc/command_line.h"

#include <getopt.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "base/text.h"
#include "rpc/option_names.h"

namespace stasis::rpc {
namespace {

// The table in getopt's form; a long option's value is its place in `spelled`.
class Getopt {
 public:
  Getopt() {
    // "+" would end at the first word; CRIU takes options after the command.
    for (const OptionName& known : option_names()) {
      add(known, std::string(known.name));
      if (known.negatable()) add(known, "no-" + std::string(known.name));
      if (known.letter == 0) continue;
      letters_ += known.letter;
      letters_.append(static_cast<size_t>(known.argument), ':');
    }
    for (size_t i = 0; i < spelled_.size(); ++i)
      long_.push_back(
          {spelled_[i].c_str(), arguments_[i], nullptr, first_long + static_cast<int>(i)});
    long_.push_back({});
  }

  void apply_all(int argc, char** argv, Settings& settings) {
    optind = 0;  // glibc: from the start, with nothing remembered
    opterr = 0;
    for (int at = 1;; at = optind) {
      int got = getopt_long(argc, argv, letters_.c_str(), long_.data(), nullptr);
      if (got == -1) return;
      if (got == '?') refuse(argv[at < argc ? at : argc - 1], argv[optind - 1]);
      apply_option(settings, name_of(got), optarg ? optarg : "");
    }
  }

 private:
  static constexpr int first_long = 1000;

  void add(const OptionName& known, std::string spelling) {
    spelled_.push_back(std::move(spelling));
    arguments_.push_back(static_cast<int>(known.argument));  // getopt's numbers, too
  }

  std::string_view name_of(int got) const {
    if (got >= first_long) return spelled_[static_cast<size_t>(got - first_long)];
    for (const OptionName& known : option_names())
      if (known.letter == got) return known.name;
    return {};
  }

  // A known one lacks its value or has one too many, or is an abbreviation of
  // several; an unknown one has neighbours.
  [[noreturn]] void refuse(std::string_view at, std::string_view last) const {
    std::string_view word = last.starts_with('-') ? last : at;
    std::string_view name = word.substr(0, word.find('='));
    name.remove_prefix(std::min(name.find_first_not_of('-'), name.size()));
    std::string cause = "no such option" + text::did_you_mean(name, spelled_);
    for (size_t i = 0; i < spelled_.size(); ++i)
      if (spelled_[i] == name)
        cause = arguments_[i] == required_argument ? "it needs a value" : "it takes no value";
    throw Error("understand the option", std::string(word))
        .because(cause)
        .hint("the options are those of criu(8)");
  }

  std::string letters_;
  std::vector<std::string> spelled_;
  std::vector<int> arguments_;
  std::vector<option> long_;
};

static_assert(static_cast<int>(Argument::none) == no_argument &&
              static_cast<int>(Argument::required) == required_argument &&
              static_cast<int>(Argument::optional) == optional_argument);

void apply_config_files(int argc, char** argv, const std::string& default_config,
                        Settings& settings) {
  bool defaults = true;
  std::string named;
  constexpr std::string_view config = "--config";
  for (int i = 1; i < argc; ++i) {
    std::string_view argument = argv[i];
    if (argument == "--no-default-config") defaults = false;
    if (argument == config && i + 1 < argc) named = argv[i + 1];
    if (argument.starts_with("--config=")) named = argument.substr(config.size() + 1);
  }
  if (defaults && named.empty()) {
    apply_config_file(settings, default_config);
    if (const char* home = getenv("HOME"))
      apply_config_file(settings, std::string(home) + "/.criu/default.conf");
  }
  if (const char* path = getenv("CRIU_CONFIG_FILE")) apply_config_file(settings, path);
  if (!named.empty()) apply_config_file(settings, named);
}

}  // namespace

CommandLine parse_command_line(int argc, char** argv, const std::string& default_config) {
  CommandLine result;
  apply_config_files(argc, argv, default_config, result.settings);
  Getopt().apply_all(argc, argv, result.settings);
  if (result.settings.log_path.empty()) result.settings.opts.set_log_to_stderr(true);
  result.words.assign(argv + optind, argv + argc);
  return result;
}

}  // namespace stasis::rpc
