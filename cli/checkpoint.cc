#include "cli/checkpoint.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>
#include <nlohmann/json.hpp>

#include "cli/image_dir.h"
#include "cli/lock.h"
#include "cli/obstacles.h"
#include "cli/plan.h"
#include "cli/progress.h"
#include "cli/runc.h"
#include "engine/plan.h"
#include "kernel/fs.h"
#include "rpc/log_file.h"

namespace stasis::cli {
namespace {

constexpr uint64_t page_size = 4096;

int64_t now_us() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * int64_t{1'000'000} + now.tv_nsec / 1000;
}

class CheckpointObserver : public engine::Observer {
 public:
  explicit CheckpointObserver(NewImage& image) : image_(image) {}

  // The image is whole and no task has been killed yet: the moment to publish.
  void post_dump() override {
    progress_.clear();
    image_.publish();
  }
  void progress(uint64_t done, uint64_t total) override { progress_.show(done, total); }

 private:
  NewImage& image_;
  Progress progress_{"writing"};
};

void choose(const CheckpointOptions& options, engine::DumpPlan& plan) {
  plan.leave_running = options.leave_running;
  plan.snapshot = options.snapshot;
  plan.tcp_established = options.tcp_established;
  plan.tcp_close = options.tcp_close;
  plan.skip_in_flight = options.skip_in_flight;
  plan.ext_unix_sk = options.ext_unix_sk;
  plan.shell_job = options.shell_job;
}

// All that can be known before the container is touched.
void refuse_obstacles(const CheckpointOptions& options, const Container& container,
                      const engine::DumpPlan& plan) {
  for (const mountmap::MapFinding& finding : findings_of(container, options.runc_root, &plan))
    if (finding.severity == mountmap::Severity::obstacle)
      throw Error("checkpoint", options.id)
          .because(finding.subject + " " + finding.what)
          .hint(finding.remedy);
}

engine::DumpPlan make_plan(const CheckpointOptions& options, const Container& container) {
  engine::DumpPlan plan = build_dump_plan(container);
  choose(options, plan);
  plan.durable = true;
  return plan;
}

// What runc itself leaves in a checkpoint and wants to find there.
void add_descriptors(NewImage& image, const oci::RuncState& state) {
  image.add_file("descriptors.json", nlohmann::json(state.external_descriptors).dump());
}

// So that a restore can tell where it takes something from another place.
std::vector<RecordedSource> sources_of(const mountmap::MountMap& map) {
  std::vector<RecordedSource> sources;
  for (const mountmap::MapRow& row : map.rows)
    if (row.kind == mountmap::MountClass::external &&
        row.external != mountmap::ExternalKind::masked &&
        row.external != mountmap::ExternalKind::cgroup)
      sources.push_back({row.key, row.source, row.root});
  return sources;
}

void add_manifest(NewImage& image, const CheckpointOptions& options, const Container& container) {
  image.add_file("stasis.json", to_json({.id = options.id,
                                         .bundle = container.bundle,
                                         .runc_root = options.runc_root,
                                         .tcp_established = options.tcp_established,
                                         .file_locks = options.file_locks,
                                         .ext_unix_sk = options.ext_unix_sk,
                                         .shell_job = options.shell_job,
                                         .sources = sources_of(container.map)}));
}

// The tasks are gone; runc removes the cgroup and its state, and runs the
// poststop hooks. A runc that waited for the container in the foreground may
// have done so already.
void delete_container(const CheckpointOptions& options) {
  RuncResult result =
      run_runc(options.runtime, {"--root", options.runc_root, "delete", options.id}, false);
  std::string state = options.runc_root + "/" + options.id;
  if (result.exit_code == 0 ||
      kernel::call(SYS_faccessat, AT_FDCWD, state.c_str(), F_OK) == -ENOENT)
    return;
  throw Error("remove the stopped container", options.id)
      .because("its checkpoint is complete, but runc delete said: " + result.complaint)
      .hint("runc delete " + options.id);
}

void report(const CheckpointOptions& options, const NewImage& image,
            const engine::DumpResult& result, int64_t wall_us, FILE* out) {
  uint64_t pages = result.pages_written + result.shared_pages_written;
  if (options.json) {
    nlohmann::ordered_json json = {{"id", options.id},
                                   {"image", image.place()},
                                   {"running", options.leave_running},
                                   {"pages", pages},
                                   {"bytes", pages * page_size},
                                   {"frozenMicroseconds", result.frozen_us},
                                   {"wallMicroseconds", wall_us}};
    if (options.leave_running) {
      json["snapshot"] = result.tasks_copied > 0 ? "fork" : "plain";
      if (!result.not_copied_for.empty()) json["plainBecause"] = result.not_copied_for;
    }
    fmt::print(out, "{}\n", json.dump(2));
    return;
  }
  fmt::print(out, "{}: {} of memory in {}, {:.1f} ms ({:.1f} ms frozen){}\n", options.id,
             human_bytes(pages * page_size), image.place(), static_cast<double>(wall_us) / 1000,
             result.frozen_us / 1000.0, options.leave_running ? "; it goes on running" : "");
  if (options.snapshot == engine::Snapshot::fork && !result.not_copied_for.empty())
    fmt::print(out, "{}: not all was written from copies: {}\n", options.id, result.not_copied_for);
}

}  // namespace

void require_root(const std::string& operation, const std::string& subject) {
  if (geteuid() != 0)
    throw Error(operation, subject).because("only root can").hint("run it with sudo");
}

int checkpoint(const CheckpointOptions& options, FILE* out) {
  int64_t start = now_us();
  oci::check_container_id(options.id);
  require_root("checkpoint", options.id);
  ContainerLock lock(options.id);
  ContainerQuery query;
  query.id = options.id;
  query.runc_root = options.runc_root;
  query.policy_file = options.policy_file;
  Container container = open_container(query);
  engine::DumpPlan plan = make_plan(options, container);
  refuse_obstacles(options, container, plan);

  NewImage image(options.image.empty() ? default_image_dir(options.id) : options.image);
  add_descriptors(image, *container.state);
  add_manifest(image, options, container);
  constexpr int log_flags = O_WRONLY | O_CREAT | O_EXCL | O_APPEND;
  rpc::LogFile log(kernel::open_at(image.fd(), "dump.log", log_flags, 0600), 4, "stasis/dump");
  for (const mountmap::MapRow& row : container.map.rows)
    for (const std::string& line : row.details) log.info("{}", line);
  CheckpointObserver observer(image);
  engine::DumpResult result = engine::dump(plan, image.fd(), observer, log);
  if (!options.leave_running) delete_container(options);
  report(options, image, result, now_us() - start, out);
  return 0;
}

}  // namespace stasis::cli
