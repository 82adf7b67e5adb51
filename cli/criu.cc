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

// CRIU's names of features that the engine has where the kernel has the one
// beside it (or any kernel that stasis runs on).
struct CriuFeature {
  std::string_view name, probe;
};
constexpr CriuFeature criu_features[] = {
    {"cgroupns", ""},
    {"clone3_set_tid", "clone3 with set_tid"},
    {"external_net_ns", ""},
    {"get_rseq_conf", "PTRACE_GET_RSEQ_CONFIGURATION"},
    {"kcmp_epoll", ""},
    {"mnt_id", ""},
    {"move_mount_set_group", "MOVE_MOUNT_SET_GROUP"},
    {"openat2", ""},
    {"pagemap_scan", "PAGEMAP_SCAN"},
    {"seccomp_filters", "PTRACE_O_SUSPEND_SECCOMP"},
    {"seccomp_suspend", "PTRACE_O_SUSPEND_SECCOMP"},
    {"timens", "time namespaces"},
};

bool has_feature(std::string_view name) {
  for (const CriuFeature& known : criu_features) {
    if (known.name != name) continue;
    if (known.probe.empty()) return true;
    for (const Feature& feature : probe_features())
      if (feature.name == known.probe) return feature.present;
  }
  return false;
}

// `check [--feature NAME]...`; options that only say how to check are passed over.
int check_features(int argc, char** argv) {
  constexpr std::string_view option = "--feature";
  for (int i = 0; i < argc; ++i) {
    std::string_view argument = argv[i], name;
    if (argument == option && i + 1 < argc)
      name = argv[++i];
    else if (argument.starts_with("--feature="))
      name = argument.substr(option.size() + 1);
    else
      continue;
    if (has_feature(name)) continue;
    fmt::print(stderr, "Error (stasis/check): {} is not supported\n", name);
    return 1;
  }
  return 0;
}

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
  rpc::EngineCalls calls;
  calls.dump = engine::dump;
  calls.restore = engine::restore;
  calls.obstacles = engine::obstacles;
  calls.missing = missing_feature;
  return rpc::serve(*number, calls);
}

int criu(int argc, char** argv) {
  std::string_view command = argc > 1 ? argv[1] : "";
  if (command == "swrk" && argc == 3) return swrk(argv[2]);
  if (command == "--version" || command == "-V") {
    fmt::print("Version: 4.2\n");
    return 0;
  }
  if (command == "check") return check_features(argc - 2, argv + 2) == 0 ? check_as_criu() : 1;
  fmt::print(stderr,
             "stasis: as criu it knows: swrk FD, check, --version; "
             "for containers of runc use: stasis checkpoint ID, stasis restore ID\n");
  return 2;
}

}  // namespace stasis::cli
