// `stasis inspect DIR`: what a checkpoint holds, whoever made it; and whether
// its mounts fit a bundle.
#pragma once

#include <cstdio>
#include <string>

namespace stasis::cli {

struct InspectOptions {
  std::string image;
  std::string diff;  // a bundle to hold the mounts against
  bool json = false;
  bool color = false;  // callers look whether `out` is a terminal
};

// Exit code: 0, or 1 when it could not be restored from the bundle of `diff`.
int inspect(const InspectOptions& options, FILE* out);

}  // namespace stasis::cli
