#include "rpc/operation.h"

#include <fmt/core.h>
#include <sys/utsname.h>

#include "rpc/stats.h"

namespace stasis::rpc {

LogFile start_log(const Settings& settings, const Directories& directories,
                  const std::string& operation) {
  LogFile log(open_log(settings, directories), settings.opts.log_level(), "stasis/" + operation);
  utsname system{};
  uname(&system);
  log.info("Version: stasis (as CRIU {}.{}) on {} {} {}", compatible_major, compatible_minor,
           system.sysname, system.release, system.machine);
  return log;
}

void refuse_obstacles(const engine::DumpPlan& plan, const EngineCalls& calls, LogFile& log) {
  std::vector<engine::Finding> findings = calls.obstacles(plan);
  if (findings.empty()) return;
  for (const engine::Finding& finding : findings)
    log.error(fmt::format("{} {}; {}", finding.subject, finding.what, finding.remedy));
  const engine::Finding& first = findings.front();
  std::string cause = first.subject + " " + first.what;
  if (findings.size() > 1) cause += fmt::format(" (and {} more)", findings.size() - 1);
  throw Error("dump", fmt::format("process {}", plan.root)).because(cause).hint(first.remedy);
}

namespace {

template <typename Result>
void keep(int work_dir, const Result& result, Log& log) {
  try {
    write_stats(work_dir, result);
  } catch (const Error& error) {
    log.warn("{}", error.what());
  }
}

}  // namespace

void keep_stats(int work_dir, const engine::DumpResult& result, Log& log) {
  keep(work_dir, result, log);
}
void keep_stats(int work_dir, const engine::RestoreResult& result, Log& log) {
  keep(work_dir, result, log);
}

}  // namespace stasis::rpc
