// The door for those who call us as `criu`.
#pragma once

namespace stasis::cli {

// `argv[0]` is the program's name or the word "criu"; what follows is CRIU's
// command line.
int criu(int argc, char** argv);

// `swrk FD`: serves the RPC on an inherited socket.
int swrk(const char* fd);

}  // namespace stasis::cli
