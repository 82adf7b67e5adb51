#include "hook/in_place.h"

#include <fmt/format.h>
#include <signal.h>

#include <cstring>

#include "base/scope_exit.h"
#include "base/text.h"
#include "engine/in_place.h"
#include "hook/checkpoint_archive.h"
#include "hook/checkpoints.h"
#include "hook/confinement.h"
#include "hook/container_files.h"
#include "hook/file_fit.h"
#include "hook/mount_fit.h"
#include "hook/record.h"
#include "hook/start_log.h"
#include "hook/user_fit.h"
#include "hook/watcher.h"
#include "mountmap/policy.h"

namespace stasis::hook {

namespace {

// False: the container was given up before its start.
bool watch(pid_t init, const image::Checkpoint& checkpoint, int signal, StartLog& log,
           const std::function<void()>& ready) {
  engine::StartHold hold(init);
  ready();
  UniqueFd container_stderr;
  try {
    if (!engine::follow_to_program(hold, checkpoint, log)) {
      log.info("The container was given up before its start");
      return false;
    }
    container_stderr = stderr_of(init);
    check_label(checkpoint, label_of(init), log);
    engine::restore_in_place(hold, checkpoint, {signal}, log);
  } catch (const Error& error) {
    log.fail(container_stderr.get(), one_line(error));
  } catch (const std::exception& error) {
    log.fail(container_stderr.get(), error.what());
  }
  return true;
}

// A user namespace that config.json joins shows only at the start.
void check_users(const image::Checkpoint& checkpoint, const oci::Config& config) {
  for (const oci::ConfigNamespace& ns : config.namespaces)
    if (ns.type == "user" && !ns.path.empty()) return;
  for (const mountmap::MapFinding& finding : compare_users(checkpoint, config))
    throw Error("restore", "the container in place")
        .because(finding.subject + " " + finding.what)
        .hint(finding.remedy);
}

void try_to_remove(const std::string& id, Log& log) {
  try {
    remove_unpacked(id);
  } catch (const Error& error) {
    log.warn("{}", error.what());
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
  }
  if (!pid) refuse("it has no pid namespace of its own", "give it one in config.json");
}

int clone_signal(const oci::Config& config) {
  auto annotation = config.annotations.find(clone_signal_annotation);
  if (annotation == config.annotations.end()) return 0;
  std::string_view name = annotation->second;
  int wanted = text::to_int<int>(name).value_or(0);
  if (name.starts_with("SIG")) name.remove_prefix(3);
  for (int signal = 1; signal < SIGRTMIN; ++signal)
    if (const char* known = sigabbrev_np(signal); known && name == known) wanted = signal;
  if (wanted < 1 || wanted > SIGRTMAX || wanted == SIGKILL || wanted == SIGSTOP)
    throw Error(std::string("use ") + clone_signal_annotation, annotation->second)
        .because("no program can wait for such a signal")
        .hint("a name or number, as SIGUSR2 or 12");
  return wanted;
}

void arm(const oci::State& state, const oci::Config& config, Log& log, std::string_view state_dir) {
  std::string name =
      mountmap::checkpoint_name(config.annotations.at(restore_annotation), {state.id, &config});
  // Not the built-in rules in place of a file that can't be read: they allow more.
  UniqueFd directory = open_checkpoint(name, mountmap::load_policy());
  int signal = clone_signal(config);
  StartLog restore_log(state_dir, state.id);
  if (!restore_log.begin(state.pid)) {
    log.info("{} is armed already: the hook is called twice", state.id);
    return;
  }
  restore_log.info("Container {} is to start from {}", state.id, name);
  bool archive = is_archive(directory.get());
  auto remove = [&] {
    if (archive) try_to_remove(state.id, restore_log);
  };
  ScopeExit give_up(remove);
  if (archive) directory = unpack_checkpoint(directory.get(), name, state.id, restore_log);
  image::Checkpoint checkpoint = image::load(directory.get());
  engine::check_in_place(checkpoint);
  check_namespaces(config);
  check_users(checkpoint, config);
  check_privileges(checkpoint, config);
  check_provided(checkpoint, config);
  apply_container_files(directory.get(), config, restore_log);
  check_root_files(checkpoint, config);
  for (const std::string& difference : mount_differences(checkpoint, config)) {
    log.warn("{}", difference);
    restore_log.warn("{}", difference);
  }
  leave_behind([&](const std::function<void()>& ready) {
    ScopeExit restored(remove);
    bool started = watch(state.pid, checkpoint, signal, restore_log, ready);
    // A runtime that was killed while it made the container calls no poststop.
    if (!started) remove_own_record(state_dir, {state.id, state.bundle, state.pid});
  });
  give_up.dismiss();
  log.info("{} starts from checkpoint {}", state.id, name);
}

void await(const oci::State& state, std::string_view state_dir) {
  std::string failure = wait_for_failure(state_dir, state.id);
  if (!failure.empty()) throw Error("start", state.id + " from its checkpoint").because(failure);
}

}  // namespace stasis::hook
