// CRIU's command line: `criu dump -t PID -D DIR -o dump.log ...`.
#pragma once

#include <string>
#include <vector>

#include "rpc/settings.h"

namespace stasis::rpc {

struct CommandLine {
  Settings settings;
  std::vector<std::string> words;  // the command and what else isn't an option
};

// argv[0] is the program's name. Configuration files come first, as in CRIU:
// `default_config`, the user's own ($HOME/.criu/default.conf) unless
// --no-default-config or --config is there, $CRIU_CONFIG_FILE, --config's; the
// command line has the last word. Throws Error for what can't be understood.
CommandLine parse_command_line(int argc, char** argv, const std::string& default_config);

}  // namespace stasis::rpc
