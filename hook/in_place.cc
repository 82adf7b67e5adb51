#include "hook/in_place.h"

#include <fmt/format.h>

#include <bit>

#include "engine/in_place.h"
#include "hook/checkpoints.h"
#include "hook/mount_fit.h"
#include "hook/start_log.h"
#include "hook/watcher.h"
#include "mountmap/policy.h"
#include "oci/capability.h"

namespace stasis::hook {

namespace {

uint64_t as_set(const google::protobuf::RepeatedField<uint32_t>& words) {
  uint64_t set = 0;
  for (int i = 0; i < words.size() && i < 2; ++i) set |= uint64_t{words.Get(i)} << (32 * i);
  return set;
}

// An image is code with the privileges that it names; the kernel would refuse
// what the new container hasn't, but late.
void check_privileges(const image::Checkpoint& checkpoint, const oci::Config& config) {
  for (const image::TaskImage& task : checkpoint.tasks)
    for (const image::CoreEntry& thread : task.threads) {
      const image::CredsEntry& creds = thread.thread_core().creds();
      uint64_t has = as_set(creds.cap_prm()) | as_set(creds.cap_bnd());
      uint64_t more = has & ~config.capabilities;
      if (more == 0) continue;
      throw Error("restore", fmt::format("process {} ({})", task.tree.pid(), task.core().comm()))
          .because(fmt::format("it had {}, which config.json doesn't give the container",
                               oci::capability_name(static_cast<unsigned>(std::countr_zero(more)))))
          .hint("add it to process.capabilities, or checkpoint the container without it");
    }
}

void watch(pid_t init, const image::Checkpoint& checkpoint, StartLog& log,
           const std::function<void()>& ready) {
  engine::StartHold hold(init);
  ready();
  UniqueFd container_stderr;
  try {
    if (!engine::follow_to_program(hold, checkpoint, log)) {
      log.info("The container was given up before its start");
      return;
    }
    container_stderr = stderr_of(init);
    engine::restore_in_place(hold, checkpoint, {}, log);
  } catch (const Error& error) {
    log.fail(container_stderr.get(), one_line(error));
  } catch (const std::exception& error) {
    log.fail(container_stderr.get(), error.what());
  }
}

}  // namespace

void check_namespaces(const oci::Config& config) {
  auto refuse = [](const std::string& cause, const std::string& remedy) {
    throw Error("restore", "the container in place").because(cause).hint(remedy);
  };
  bool pid = false;
  for (const oci::ConfigNamespace& ns : config.namespaces) {
    if (ns.type == "pid") pid = ns.path.empty();
    if (ns.type == "user") refuse("it has a user namespace", "start it without one");
  }
  if (!pid) refuse("it has no pid namespace of its own", "give it one in config.json");
}

void arm(const oci::State& state, const oci::Config& config, Log& log, std::string_view state_dir) {
  const std::string& name = config.annotations.at(restore_annotation);
  // Not the built-in rules in place of a file that can't be read: they allow more.
  UniqueFd directory = open_checkpoint(name, mountmap::load_policy());
  image::Checkpoint checkpoint = image::load(directory.get());
  engine::check_in_place(checkpoint);
  check_namespaces(config);
  check_privileges(checkpoint, config);
  StartLog restore_log(state_dir, state.id);
  if (!restore_log.begin()) {
    log.info("{} is armed already: the hook is called twice", state.id);
    return;
  }
  restore_log.info("Container {} is to start from {}", state.id, name);
  for (const std::string& difference : mount_differences(checkpoint, config)) {
    log.warn("{}", difference);
    restore_log.warn("{}", difference);
  }
  leave_behind([&](const std::function<void()>& ready) {
    watch(state.pid, checkpoint, restore_log, ready);
  });
  log.info("{} starts from checkpoint {}", state.id, name);
}

void await(const oci::State& state, std::string_view state_dir) {
  std::string failure = wait_for_failure(state_dir, state.id);
  if (!failure.empty()) throw Error("start", state.id + " from its checkpoint").because(failure);
}

}  // namespace stasis::hook
