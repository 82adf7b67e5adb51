// The elements of `external`: what a dump leaves outside, by name, and what a
// restore takes in its place.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "rpc.pb.h"

namespace stasis::rpc {

// "net[4026532281]:extRootNetNS", "mnt[/etc/hosts]:hosts".
struct External {
  std::string kind, id, value;
};
External parse_external(const std::string& text);

// All of one kind.
std::vector<External> externals(const Options& opts, std::string_view kind);
bool is_namespace(std::string_view kind);

// Throws Error for a kind that doesn't exist or isn't supported.
void check_externals(const Options& opts);

Error unsupported(const std::string& option, const std::string& remedy);

}  // namespace stasis::rpc
