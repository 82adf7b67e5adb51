#include "cli/criu.h"

#include <fmt/core.h>

#include <cstdio>
#include <string_view>

#include "base/text.h"
#include "cli/features.h"
#include "engine/plan.h"
#include "rpc/server.h"

namespace stasis::cli {
namespace {

// In CRIU's words: tools look for them.
int check_as_criu() {
  bool good = true;
  for (const Feature& feature : probe_features()) {
    if (feature.present || !feature.required) continue;
    fmt::print(stderr, "Error (stasis/check): {} is missing: {}\n", feature.name, feature.cost);
    good = false;
  }
  if (good) fmt::print("Looks good.\n");
  return good ? 0 : 1;
}

// The first required feature that isn't there.
std::string missing_feature() {
  for (const Feature& feature : probe_features())
    if (feature.required && !feature.present) return feature.name;
  return {};
}

}  // namespace

int swrk(const char* fd) {
  auto number = text::to_int<int>(fd);
  if (!number || *number < 0) {
    fmt::print(stderr, "stasis: swrk wants the number of an open descriptor, not \"{}\"\n", fd);
    return 2;
  }
  return rpc::serve(*number, {engine::dump, engine::restore, engine::obstacles, missing_feature});
}

int criu(int argc, char** argv) {
  std::string_view command = argc > 1 ? argv[1] : "";
  if (command == "swrk" && argc == 3) return swrk(argv[2]);
  if (command == "--version" || command == "-V") {
    fmt::print("Version: 4.2\n");
    return 0;
  }
  if (command == "check" && argc == 2) return check_as_criu();
  fmt::print(stderr,
             "stasis: as criu it knows: swrk FD, check, --version; "
             "for containers of runc use: stasis checkpoint ID, stasis restore ID\n");
  return 2;
}

}  // namespace stasis::cli
