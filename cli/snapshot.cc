#include "cli/snapshot.h"

#include <fmt/format.h>
#include <sys/syscall.h>

#include <nlohmann/json.hpp>

#include "cli/image_dir.h"
#include "cli/lock.h"
#include "cli/plan.h"
#include "engine/plan.h"
#include "kernel/fs.h"

namespace stasis::cli {

namespace {

// Of a runtime that keeps no state that we know, process and bundle say enough.
Container find(const oci::State& state) {
  ContainerQuery query;
  query.pid = state.pid;
  Container container = open_container(query);
  if (container.state) return container;
  container.id = state.id;
  container.bundle = state.bundle;
  look_into(container);
  return container;
}

// runc wants to find in a checkpoint what standard input and output were.
std::string descriptors(pid_t init) {
  nlohmann::json links = nlohmann::json::array();
  for (int fd = 0; fd <= 2; ++fd) {
    std::string path = fmt::format("/proc/{}/fd/{}", init, fd);
    char target[256];
    long size = kernel::call(SYS_readlinkat, AT_FDCWD, path.c_str(), target, sizeof target);
    links.push_back(std::string(target, size < 0 ? 0 : static_cast<size_t>(size)));
  }
  return links.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

void take_snapshot(const oci::State& state, const std::string& place,
                   const hook::SnapshotFile& file, Log& log) {
  ContainerLock lock(state.id);
  Container container = find(state);
  engine::DumpPlan plan = build_dump_plan(container);
  plan.leave_running = true;
  plan.runtime_gives_stdio = true;
  NewImage image(place);
  engine::Observer observer;
  engine::DumpResult result = engine::dump(plan, image.fd(), observer, log);
  // It runs again: what takes time is done now.
  image.add_file("descriptors.json", descriptors(state.pid));
  image.add_file("stasis.json", to_json({.id = state.id,
                                         .bundle = container.bundle,
                                         .runc_root = std::string(oci::default_runc_root)}));
  image.add_file(file.name, file.text(image::load(image.fd())));
  kernel::must(kernel::call(SYS_syncfs, image.fd()), "write out", place);
  image.publish();
  log.info("{} stood still for {:.1f} ms", state.id, result.frozen_us / 1000.0);
}

}  // namespace stasis::cli
