#include "rpc/server.h"

#include <fmt/core.h>
#include <sys/syscall.h>

#include <cerrno>
#include <optional>

#include "kernel/call.h"
#include "rpc/channel.h"
#include "rpc/observer.h"
#include "rpc/option_names.h"
#include "rpc/plans.h"
#include "rpc/policy.h"
#include "rpc/provided.h"

namespace stasis::rpc {
namespace {

Response answer_to(const Request& request, bool success) {
  Response response;
  response.set_type(request.type());
  response.set_success(success);
  return response;
}

Response failure(const Request& request, const Error& error, int fallback_errno) {
  Response response = answer_to(request, false);
  response.set_cr_errno(error.code() != 0 ? error.code() : fallback_errno);
  std::string message = error.what();
  if (!error.remedy().empty()) message += " (" + error.remedy() + ")";
  response.set_cr_errmsg(message);
  return response;
}

// One DUMP or RESTORE: settings, directories and log, in the order in which
// a failure can still be told in the best place.
class Operation {
 public:
  Operation(const Request& request, Channel& channel, const EngineCalls& calls)
      : request_(request), channel_(channel), calls_(calls) {}

  // Nothing when the caller has its answer already.
  std::optional<Response> run() {
    try {
      prepare();
      std::optional<Response> response;
      if (request_.type() == DUMP)
        response = dump();
      else
        restore();
      return response;
    } catch (const Error& error) {
      if (log_) log_->error(error);
      return refusal(error);
    } catch (const std::exception& error) {
      if (log_) log_->error(error.what());
      return refusal(Error("finish", "").because(error.what()));
    }
  }

 private:
  void prepare() {
    std::optional<Error> config_error = read_settings();
    directories_ = open_directories(settings_, channel_);
    log_.emplace(start_log(settings_, directories_, request_.type() == DUMP ? "dump" : "restore"));
    if (config_error) throw *config_error;
  }

  // What is wrong with a configuration file is told once there is a log.
  std::optional<Error> read_settings() {
    std::optional<Error> wrong;
    auto apply = [&](const std::string& path) {
      try {
        apply_config_file(settings_, path);
      } catch (const Error& error) {
        wrong = error;
      }
    };
    apply(calls_.default_config);
    settings_.opts.MergeFrom(request_.opts());
    if (request_.opts().has_log_file()) settings_.log_path.clear();
    if (request_.opts().has_work_dir_fd()) settings_.work_dir.clear();
    if (settings_.opts.has_config_file()) apply(settings_.opts.config_file());
    return wrong;
  }

  Response dump() {
    engine::DumpPlan plan = dump_plan(settings_.opts, *log_);
    stage_errno_ = EOPNOTSUPP;
    apply_policy(settings_.opts, plan, *log_);
    describe_mounts(*providers(settings_), plan, *log_);
    apply_root_options(settings_, plan, *log_);
    refuse_obstacles(plan, calls_, *log_);
    stage_errno_ = EIO;
    NotifyObserver observer(channel_, settings_.opts.notify_scripts());
    engine::DumpResult result = calls_.dump(plan, directories_.images.get(), observer, *log_);
    keep_stats(directories_.work.get(), result, *log_);
    log_->info("Dump finished");
    Response response = answer_to(request_, true);
    response.mutable_dump()->set_restored(false);
    return response;
  }

  // The answer goes out before the tasks run: see Observer::restored().
  void restore() {
    engine::RestorePlan plan = restore_plan(settings_.opts);
    apply_policy(plan, *log_);
    provide_mounts(settings_, plan);
    stage_errno_ = EIO;
    NotifyObserver observer(channel_, settings_.opts.notify_scripts());
    observer.on_restored = [&](const engine::RestoreResult& result) {
      keep_stats(directories_.work.get(), result, *log_);
      Response response = answer_to(request_, true);
      response.mutable_restore()->set_pid(result.root);
      channel_.send(std::move(response));
      answered_ = true;
    };
    calls_.restore(plan, directories_.images.get(), observer, *log_);
  }

  std::optional<Response> refusal(const Error& error) const {
    if (answered_) return std::nullopt;
    return failure(request_, error, stage_errno_);
  }

  const Request& request_;
  Channel& channel_;
  const EngineCalls& calls_;
  Settings settings_;
  Directories directories_;
  std::optional<LogFile> log_;
  bool answered_ = false;
  int stage_errno_ = EBADRQC;  // what a failure without an errno of its own is called
};

Response version(const Request& request) {
  Response response = answer_to(request, true);
  response.mutable_version()->set_major_number(compatible_major);
  response.mutable_version()->set_minor_number(compatible_minor);
  return response;
}

// Only what was asked about is answered with yes; all three serve pre-dumps
// and lazy pages, which the engine doesn't do.
Response features(const Request& request) {
  Response response = answer_to(request, true);
  response.mutable_features()->set_mem_track(false);
  response.mutable_features()->set_lazy_pages(false);
  response.mutable_features()->set_pidfd_store(false);
  return response;
}

Response wait_pid(const Request& request) {
  int status = 0;
  long pid = kernel::call(SYS_wait4, request.pid(), &status, 0, 0);
  if (pid < 0)
    return failure(request,
                   Error("wait for", fmt::format("process {}", request.pid()))
                       .with_errno(static_cast<int>(-pid)),
                   EIO);
  Response response = answer_to(request, true);
  response.set_status(status);
  return response;
}

Response check(const Request& request, const EngineCalls& calls) {
  std::string missing = calls.missing();
  if (missing.empty()) return answer_to(request, true);
  return failure(request, Error("work", "here").because(missing + " is missing"), EOPNOTSUPP);
}

// CRIU answers what isn't a request at all with type EMPTY.
Response not_a_request(const std::string& cause) {
  Request unknown;
  unknown.set_type(EMPTY);
  return failure(unknown, Error("serve", "the request").because(cause), EBADRQC);
}

std::optional<Response> respond(const Request& request, Channel& channel,
                                const EngineCalls& calls) {
  switch (request.type()) {
    case VERSION:
      return version(request);
    case FEATURE_CHECK:
      return features(request);
    case WAIT_PID:
      return wait_pid(request);
    case CHECK:
      return check(request, calls);
    case DUMP:
    case RESTORE:
      return Operation(request, channel, calls).run();
    case PRE_DUMP:
    case SINGLE_PRE_DUMP:
    case PAGE_SERVER:
    case PAGE_SERVER_CHLD:
    case CPUINFO_DUMP:
    case CPUINFO_CHECK:
      return failure(
          request,
          Error("serve", RequestType_Name(request.type())).because("stasis doesn't support it yet"),
          EOPNOTSUPP);
    default:
      return not_a_request("it starts nothing");
  }
}

}  // namespace

int serve(int fd, const EngineCalls& calls) {
  Channel channel(fd);
  bool success = true;
  for (bool more = true; more;) {
    std::optional<Request> request;
    try {
      request = channel.receive();
    } catch (const Error& error) {
      channel.send(not_a_request(error.what()));
      return 1;
    }
    if (!request) break;
    if (std::optional<Response> response = respond(*request, channel, calls)) {
      success = response->success();
      channel.send(std::move(*response));
    }
    more = request->keep_open();
  }
  return success ? 0 : 1;
}

}  // namespace stasis::rpc
