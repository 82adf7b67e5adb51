#include "cli/criu.h"

#include <fmt/core.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string_view>
#include <utility>

#include "base/text.h"
#include "cli/features.h"
#include "engine/plan.h"
#include "kernel/call.h"
#include "rpc/command_line.h"
#include "rpc/operation.h"
#include "rpc/option_names.h"
#include "rpc/plans.h"
#include "rpc/policy.h"
#include "rpc/provided.h"
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
    {"loginuid", ""},
    {"mnt_id", ""},
    {"move_mount_set_group", "MOVE_MOUNT_SET_GROUP"},
    {"ns_pid", ""},
    {"openat2", ""},
    {"pagemap_scan", "PAGEMAP_SCAN"},
    {"seccomp_filters", "PTRACE_O_SUSPEND_SECCOMP"},
    {"seccomp_suspend", "PTRACE_O_SUSPEND_SECCOMP"},
    {"timens", "time namespaces"},
    {"timerfd", ""},
    {"userns", ""},
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

int check_features(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
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

rpc::EngineCalls engine_calls() {
  rpc::EngineCalls calls;
  calls.dump = engine::dump;
  calls.restore = engine::restore;
  calls.obstacles = engine::obstacles;
  calls.missing = missing_feature;
  return calls;
}

// A dump or a restore by CRIU's command line.
class Command {
 public:
  Command(const rpc::Settings& settings, std::string operation)
      : settings_(settings),
        operation_(std::move(operation)),
        directories_(rpc::open_directories(settings)),
        // As in CRIU: the log, the pidfile and all relative paths are meant from there.
        entered_(kernel::must(kernel::call(SYS_fchdir, directories_.work.get()), "enter",
                              "the work directory")),
        log_(rpc::start_log(settings, directories_, operation_)) {}

  int run() {
    try {
      operation_ == "dump" ? dump() : restore();
      return 0;
    } catch (const Error& error) {
      log_.error(error);
      tell(error.what());
    } catch (const std::exception& error) {
      log_.error(error.what());
      tell(error.what());
    }
    return 1;
  }

 private:
  // CRIU is silent when it has a log file; whoever typed the command isn't
  // helped by that.
  void tell(const char* what) const {
    if (!settings_.log_path.empty())
      fmt::print(stderr, "Error (stasis/{}): {}\n", operation_, what);
  }

  void dump() {
    engine::DumpPlan plan = rpc::dump_plan(settings_.opts, log_, rpc::Keys::all_used);
    rpc::apply_policy(settings_.opts, plan, log_);
    rpc::describe_mounts(*rpc::providers(settings_), plan, log_);
    rpc::apply_root_options(settings_, plan, log_);
    rpc::EngineCalls calls = engine_calls();
    rpc::refuse_obstacles(plan, calls, log_);
    engine::Observer nobody;
    engine::DumpResult result = calls.dump(plan, directories_.images.get(), nobody, log_);
    rpc::keep_stats(directories_.work.get(), result, log_);
    log_.info("Dumping finished successfully");
  }

  void restore() {
    engine::RestorePlan plan = rpc::restore_plan(settings_.opts, rpc::Keys::all_used);
    rpc::apply_policy(plan, log_);
    rpc::provide_mounts(settings_, plan);
    plan.pidfile = settings_.pidfile;
    if (plan.sibling && !settings_.detach)
      throw Error("restore", "").because("--restore-sibling wants --restore-detached beside it");
    engine::Observer nobody;
    engine::RestoreResult result =
        engine_calls().restore(plan, directories_.images.get(), nobody, log_);
    rpc::keep_stats(directories_.work.get(), result, log_);
    if (!settings_.detach) wait_for_all();
  }

  // Not detached: we are the tasks' parent until the last of them has ended.
  static void wait_for_all() {
    long reaped = 0;
    while (reaped >= 0 || reaped == -EINTR)
      reaped = kernel::call(SYS_wait4, -1, nullptr, 0, nullptr);
  }

  const rpc::Settings& settings_;
  std::string operation_;
  rpc::Directories directories_;
  long entered_;
  rpc::LogFile log_;
};

constexpr std::string_view other_commands[] = {"pre-dump", "lazy-pages", "page-server", "service",
                                               "dedup",    "cpuinfo",    "exec",        "show"};

int usage(const std::string& what) {
  fmt::print(stderr, "Error (stasis): {}\nTry --help for more info\n", what);
  return 1;
}

void print_help() {
  fmt::print(
      "Usage:\n"
      "  criu dump -t PID -D DIR [OPTION]...\n"
      "  criu restore -D DIR [OPTION]...\n"
      "  criu check [--feature NAME]...\n"
      "  criu swrk FD\n"
      "This is stasis in the place of CRIU {}.{}: options, images, logs and exit codes are those\n"
      "of criu(8). What stasis can't do yet it refuses by name. The options are:\n",
      rpc::compatible_major, rpc::compatible_minor);
  size_t column = 0;
  for (const rpc::OptionName& option : rpc::option_names()) {
    std::string word =
        fmt::format("{}--{}", option.letter ? fmt::format("-{}|", option.letter) : "", option.name);
    if (column + word.size() > 90) column = 0;
    fmt::print("{}{}", column == 0 ? "\n  " : ", ", word);
    column += word.size() + 2;
  }
  fmt::print("\n");
}

int run_command(const rpc::CommandLine& line) {
  const std::string& command = line.words.front();
  for (std::string_view known : other_commands)
    if (command == known) return usage(command + " isn't supported by stasis yet");
  if (command == "swrk" && line.words.size() == 2) return swrk(line.words[1].c_str());
  if (line.words.size() > 1) return usage("excessive parameter for command " + command);
  if (command == "check") return check_features(line.settings.features) == 0 ? check_as_criu() : 1;
  if (command != "dump" && command != "restore") return usage("unknown command: " + command);
  return Command(line.settings, command).run();
}

}  // namespace

int swrk(const char* fd) {
  auto number = text::to_int<int>(fd);
  if (!number || *number < 0) {
    fmt::print(stderr, "stasis: swrk wants the number of an open descriptor, not \"{}\"\n", fd);
    return 2;
  }
  return rpc::serve(*number, engine_calls());
}

int criu(int argc, char** argv) {
  // Runtimes wait for it, and its caller's environment is none of its business.
  if (argc == 3 && std::string_view(argv[1]) == "swrk") return swrk(argv[2]);
  try {
    rpc::CommandLine line = rpc::parse_command_line(argc, argv, rpc::EngineCalls().default_config);
    if (line.settings.version)
      fmt::print("Version: {}.{}\n", rpc::compatible_major, rpc::compatible_minor);
    else if (line.settings.help)
      print_help();
    else if (line.words.empty())
      return usage("command is required");
    else
      return run_command(line);
    return 0;
  } catch (const Error& error) {
    return usage(
        fmt::format("{}{}{}", error.what(), error.remedy().empty() ? "" : "; ", error.remedy()));
  }
}

}  // namespace stasis::cli
