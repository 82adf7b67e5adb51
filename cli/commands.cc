#include "cli/commands.h"

#include <fmt/core.h>

#include <cstdio>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/text.h"
#include "rpc/server.h"

namespace stasis::cli {
namespace {

int swrk(std::string_view fd) {
  auto number = text::to_int<int>(fd);
  if (!number || *number < 0) {
    fmt::print(stderr, "stasis: swrk wants the number of an open descriptor, not \"{}\"\n", fd);
    return 2;
  }
  return rpc::serve(*number, {engine::dump, engine::restore, engine::obstacles});
}

int dispatch(int argc, char** argv) {
  std::string_view command = argc > 1 ? argv[1] : "";
  if (command == "swrk" && argc == 3) return swrk(argv[2]);
  if (command == "--version") {
    fmt::print("stasis {}\n", STASIS_VERSION);
    return 0;
  }
  return 2;
}

}  // namespace

int run(int argc, char** argv) {
  try {
    return dispatch(argc, argv);
  } catch (const Error& error) {
    fmt::print(stderr, "stasis: {}{}{}\n", error.what(), error.remedy().empty() ? "" : "; ",
               error.remedy());
  } catch (const std::exception& error) {
    fmt::print(stderr, "stasis: {}\n", error.what());
  }
  return 1;
}

}  // namespace stasis::cli
