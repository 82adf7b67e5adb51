// `stasis restore ID`: a container comes back from its checkpoint, through
// `runc restore`, so that it is runc's as before.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

namespace stasis::cli {

struct RestoreOptions {
  std::string id;
  std::string image;      // empty: the default place
  std::string bundle;     // empty: the one it was checkpointed with
  std::string runc_root;  // likewise
  std::string runtime = "runc";
  bool mount_root = false;        // from the layers that the checkpoint names
  std::vector<std::string> maps;  // DEST=SOURCE
  std::string console_socket;     // who gets the terminal's other end
  bool json = false;
};

int restore(const RestoreOptions& options, FILE* out);

}  // namespace stasis::cli
