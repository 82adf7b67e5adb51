// What of unix sockets only stasis-unix.img can say: who is at their other ends.
#pragma once

#include <memory>
#include <vector>

namespace stasis::engine::files {

class Dumper;
struct OpenFile;

// Of those among `files` that are unix sockets.
void describe_peers(Dumper& dumper, const std::vector<std::unique_ptr<OpenFile>>& files);

}  // namespace stasis::engine::files
