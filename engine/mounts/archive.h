// The content of a file system as tar, compressed with gzip: pax headers for
// times, extended attributes and holes, all of which GNU tar (which CRIU runs)
// reads or passes over.
#pragma once

#include <string>

namespace stasis::engine::mounts {

// Packs everything beneath the directory `root`, which no other mount covers,
// into `out`. Sockets are left out: whoever restores a socket makes its file.
// `name` is for messages.
void pack(int root, int out, const std::string& name);

// Unpacks what `in` holds into the empty directory `root`, never outside of it.
void unpack(int in, int root, const std::string& name);

}  // namespace stasis::engine::mounts
