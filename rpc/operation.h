// What a dump and a restore have in common, whoever asks for them.
#pragma once

#include <functional>
#include <string>

#include "engine/plan.h"
#include "rpc/log_file.h"
#include "rpc/settings.h"

namespace stasis::rpc {

// What a door needs of the engine and the machine; a test puts its own in.
struct EngineCalls {
  std::function<decltype(engine::dump)> dump;
  std::function<decltype(engine::restore)> restore;
  std::function<decltype(engine::obstacles)> obstacles;
  std::function<std::string()> missing;  // what this machine lacks; empty when nothing
  std::string default_config = "/etc/criu/default.conf";
};

// What we say we are: callers compare it with the CRIU release that brought
// the feature they need.
constexpr int compatible_major = 4, compatible_minor = 2;

// The log of an operation ("dump", "restore"), its first line written.
LogFile start_log(const Settings& settings, const Directories& directories,
                  const std::string& operation);

// Throws the first of the obstacles to this dump, after all went to the log.
void refuse_obstacles(const engine::DumpPlan& plan, const EngineCalls& calls, LogFile& log);

// Statistics are no reason to call a finished operation failed.
void keep_stats(int work_dir, const engine::DumpResult& result, Log& log);
void keep_stats(int work_dir, const engine::RestoreResult& result, Log& log);

}  // namespace stasis::rpc
