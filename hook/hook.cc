#include "hook/hook.h"

#include <fmt/core.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/scope_exit.h"
#include "hook/checkpoint_archive.h"
#include "hook/in_place.h"
#include "hook/record.h"
#include "kernel/fs.h"
#include "mountmap/policy.h"
#include "oci/config.h"
#include "oci/state.h"

namespace stasis::hook {

namespace {

constexpr std::array phases{"prestart", "createRuntime", "createContainer", "poststart",
                            "poststop"};

oci::State read_state(int stdin_fd) {
  Error error = Error("read the container's state", "on stdin")
                    .hint("a hook is run by the container runtime, which writes it there");
  if (isatty(stdin_fd)) throw Error(error).because("stdin is a terminal");
  std::string text;
  try {
    text = kernel::read_all(stdin_fd, "stdin", 1 << 20);
  } catch (const Error& cause) {
    throw Error(error).with_errno(cause.code()).because(cause.cause());
  }
  if (text.empty()) throw Error(error).because("stdin is empty");
  return oci::parse_state(text);
}

// The bundle is read by every phase that may: a config.json that stasis can't
// use is to be heard of when the container starts, not at its checkpoint.
oci::Config read_bundle(const oci::State& state) {
  if (!state.bundle.starts_with('/'))
    throw Error("use the container's state", "on stdin")
        .because("bundle \"" + state.bundle + "\" is not an absolute path");
  return oci::read_config(state.bundle);
}

void tell(const mountmap::MountMap& map, Log& log) {
  for (const auto& finding : map.findings)
    if (finding.severity != mountmap::Severity::note)
      log.warn("{} {}; {}", finding.subject, finding.what, finding.remedy);
}

// A policy that can't be used is no reason for containers not to start.
mountmap::Policy machine_policy(Log& log) {
  try {
    return mountmap::load_policy();
  } catch (const Error& error) {
    log.warn("{}; {}", error.what(), error.remedy());
    return mountmap::builtin_policy();
  }
}

RecordedContainer recorded(const oci::State& state) { return {state.id, state.bundle, state.pid}; }

// createRuntime and prestart run when the mounts stand below the rootfs but
// before the container's init pivots there. In a restore (and with runtimes
// that mount later) there is nothing yet: config.json tells the sources.
// What a rule refuses is said, too: now is the time to hear of it.
oci::Config before_start(const oci::State& state, Log& log, std::string_view state_dir) {
  oci::Config config = read_bundle(state);
  if (state.pid <= 0) throw Error("use the container's state", "on stdin").because("it has no pid");
  mountmap::Policy policy = machine_policy(log);
  mountmap::PolicySubject subject{state.id, &config};
  mountmap::PolicyView view{policy, subject};
  auto map = mountmap::map_process(state.pid, &config, nullptr, config.root_path, &view);
  if (map.rows.empty()) {
    map = mountmap::map_config(config);
    mountmap::apply_policy(map, policy, subject);
    mountmap::examine_config(map);
  }
  for (auto& row : map.rows)
    if (row.kind == mountmap::MountClass::external && !row.root.known())
      row.root = mountmap::identify(row.source).value_or(mountmap::FileIdentity{});
  tell(map, log);
  if (RecordedContainer container = recorded(state); is_of_another(state_dir, container))
    log.warn("another container {} runs, under another runtime or root of one: this one's {}",
             state.id, "mounts aren't recorded");
  else
    save_record(state_dir, container, map);
  return config;
}

void try_to_forget(const oci::State& state, Log& log, std::string_view state_dir) {
  try {
    remove_own_record(state_dir, recorded(state));
  } catch (const Error& error) {
    log.warn("{}", error.what());
  }
}

// The container that only holds a pod's namespaces has the pod's annotations, too.
bool is_pods_own(const oci::Config& config) {
  for (const char* key : {"io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"})
    if (auto type = config.annotations.find(key); type != config.annotations.end())
      return type->second == "sandbox";
  return false;
}

// In a restore by the runtime itself, which says "stopped", there is nothing to arm.
// crun says "created" where the specification wants "creating".
void create_runtime(const oci::State& state, Log& log, const TakeSnapshot& take,
                    std::string_view state_dir) {
  oci::Config config = before_start(state, log, state_dir);
  if (state.status == "stopped" || is_pods_own(config)) return;
  bool restores = config.annotations.contains(restore_annotation);
  bool snapshots = config.annotations.contains(snapshot_annotation);
  if (restores && snapshots)
    throw Error("start", state.id)
        .because(std::string("it has both ") + restore_annotation + " and " + snapshot_annotation)
        .hint("remove one of the two annotations");
  // Not every runtime calls poststop for a container that could not be made.
  ScopeExit forget([&] { try_to_forget(state, log, state_dir); });
  if (restores) arm(state, config, log, state_dir);
  if (snapshots) arm_snapshot(state, config, take, log, state_dir);
  forget.dismiss();
}

// A process that has ended has no namespaces, also while nobody has reaped it.
bool ended(pid_t pid) {
  std::string path = "/proc/" + std::to_string(pid) + "/ns/mnt";
  char target[64];
  return kernel::call(SYS_readlinkat, AT_FDCWD, path.c_str(), target, sizeof target) < 0;
}

void keep_identities(mountmap::MountMap& map, const mountmap::SourceRecord& created) {
  for (auto& row : map.rows)
    if (auto before = created.find(row.key); before != created.end() && !row.root.known())
      row.root = before->second;
}

// Now the container's own root is in place, and masked paths are too.
void after_start(const oci::State& state, Log& log, std::string_view state_dir) {
  oci::Config config = read_bundle(state);
  if (state.status == "running" && (config.annotations.contains(restore_annotation) ||
                                    config.annotations.contains(snapshot_annotation)))
    await(state, state_dir);
  auto created = load_record(state_dir, state.id, state.pid);
  mountmap::Policy policy = machine_policy(log);
  mountmap::PolicySubject subject{state.id, &config};
  mountmap::PolicyView view{policy, subject};
  try {
    auto map = mountmap::map_process(state.pid, &config, created ? &*created : nullptr, "/", &view);
    if (created) keep_identities(map, *created);
    if (!is_of_another(state_dir, recorded(state))) save_record(state_dir, recorded(state), map);
  } catch (const Error&) {
    if (!ended(state.pid)) throw;
    log.info("{} has ended already", state.id);  // the record of its creation stays
  }
}

void after_stop(const oci::State& state, std::string_view state_dir) {
  if (is_of_another(state_dir, recorded(state))) return;
  remove_record(state_dir, state.id);
  remove_unpacked(state.id);
}

}  // namespace

void run(std::string_view phase, int stdin_fd, Log& log, const TakeSnapshot& take,
         std::string_view state_dir) {
  if (std::find(phases.begin(), phases.end(), phase) == phases.end())
    throw Error("run hook", "\"" + std::string(phase) + "\"")
        .because("there is no such phase")
        .hint("one of prestart, createRuntime, createContainer, poststart, poststop");
  oci::State state = read_state(stdin_fd);
  if (phase == "poststop") {
    after_stop(state, state_dir);
  } else if (phase == "createContainer") {
    // Runs inside the container's namespaces, where neither the host's mounts
    // nor its processes are to be seen rightly: only the bundle is checked.
    read_bundle(state);
  } else if (phase == "poststart") {
    after_start(state, log, state_dir);
  } else if (phase == "prestart") {
    before_start(state, log, state_dir);
  } else {
    create_runtime(state, log, take, state_dir);
  }
}

}  // namespace stasis::hook
