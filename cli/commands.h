// The command line: which door was taken, and out again with its exit code.
#pragma once

namespace stasis::cli {

// 0 ok; 1 an error, told on stderr in one line; 2 wrong usage.
int run(int argc, char** argv);

}  // namespace stasis::cli
