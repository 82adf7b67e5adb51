#include "hook/snapshot.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "engine/in_place.h"
#include "engine/namespaces/timens.h"
#include "hook/checkpoints.h"
#include "hook/confinement.h"
#include "hook/in_place.h"
#include "hook/readiness.h"
#include "hook/record.h"
#include "hook/snapshot_record.h"
#include "hook/start_log.h"
#include "hook/watcher.h"
#include "kernel/directories.h"
#include "kernel/fs.h"
#include "mountmap/policy.h"

namespace stasis::hook {

namespace {

using nlohmann::json;

constexpr const char* retired_record = "snapshot-failed.json";

// A checkpoint that somebody made by hand is not ours to replace.
void check_replaceable(const std::string& place) {
  if (!kernel::exists(place) || kernel::exists(place + "/" + snapshot_record) ||
      kernel::exists(place + "/" + retired_record))
    return;
  throw Error("take a snapshot at", place)
      .because("something that no snapshot annotation made is there")
      .hint(std::string("choose another name, or start from it with ") + restore_annotation);
}

struct Snapshot {
  UniqueFd directory;
  image::Checkpoint checkpoint;  // locked: not removed as long as we read
  std::string image;
  std::vector<RecordedFile> files;
};

class Watch {
 public:
  Watch(const oci::State& state, const oci::Config& config, std::string place, StartLog& log,
        std::string state_dir)
      : state_(state),
        place_(std::move(place)),
        when_(config.annotations.at(snapshot_when_annotation)),
        readiness_(parse_readiness(when_)),
        essence_(essence(kernel::read_file(state.bundle + "/config.json"), state.bundle, state.id)),
        clone_signal_(clone_signal(config)),
        log_(log),
        state_dir_(std::move(state_dir)),
        pidfd_(kernel::pidfd_open(state.pid)) {
    if (readiness_.kind == Readiness::Kind::log) output_.emplace(state.pid);
  }

  void run(const TakeSnapshot& take, const std::function<void()>& ready) {
    timespec started{};
    {
      engine::StartHold hold(state_.pid);
      ready();
      if (!start(hold, started)) return;
    }
    log_.let_go();
    snapshot(take, started);
  }

 private:
  // The snapshot, if it is of such a container.
  std::optional<Snapshot> find() {
    if (!kernel::exists(place_ + "/" + snapshot_record)) return std::nullopt;
    try {
      UniqueFd directory = open_checkpoint(place_, mountmap::load_policy());
      json record = json::parse(kernel::read_file_at(directory.get(), snapshot_record));
      std::string other = difference(record.at("config"), essence_);
      if (!other.empty()) {
        log_.info("config.json differs from the snapshot's in {}", other);
        return std::nullopt;
      }
      image::Checkpoint checkpoint = image::load(directory.get());
      Snapshot found{std::move(directory), std::move(checkpoint), record.at("image"),
                     files_from(record.at("files"))};
      engine::check_in_place(found.checkpoint);
      return found;
    } catch (const std::exception& error) {
      log_.warn("The snapshot can't be used: {}", error.what());
      return std::nullopt;
    }
  }

  // Now that the container is whole.
  bool fits(const Snapshot& snapshot) {
    if (root_image(state_.pid) != snapshot.image) {
      log_.info("The image is another than the snapshot's");
      return false;
    }
    std::string changed = changed_file(snapshot.files, state_.pid);
    if (!changed.empty()) {
      log_.info("{} isn't what it was at the snapshot", changed);
      return false;
    }
    if (engine::timens::ahead_of(snapshot.checkpoint, state_.pid) >= 0) return true;
    log_.info("The machine was booted since the snapshot, and the clocks would go backwards");
    return false;
  }

  // A runtime that was killed while it made the container calls no poststop.
  void forget() {
    try {
      remove_own_record(state_dir_, {state_.id, state_.bundle, state_.pid});
    } catch (const Error& error) {
      log_.warn("{}", error.what());
    }
  }

  // True: it has started normally.
  bool start(engine::StartHold& hold, timespec& started) {
    UniqueFd container_stderr;
    std::optional<Snapshot> snapshot;
    try {
      snapshot = find();
      bool lives = snapshot ? engine::follow_to_program(hold, snapshot->checkpoint, log_)
                            : hold.wait_for_program([] {}, [] {});
      if (!lives) {
        log_.info("The container was given up before its start");
        forget();
        return false;
      }
      if (snapshot && !fits(*snapshot)) snapshot.reset();
      container_stderr = stderr_of(state_.pid);
      if (snapshot) {
        check_label(snapshot->checkpoint, label_of(state_.pid), log_);
        engine::restore_in_place(hold, snapshot->checkpoint, {clone_signal_}, log_);
        return false;
      }
      clock_gettime(CLOCK_REALTIME_COARSE, &started);  // as file systems date
      if (output_) output_->begin();
      hold.commit();
      hold.tracee().detach();
      return true;
    } catch (const Error& error) {
      if (snapshot) retire(*snapshot);
      log_.fail(container_stderr.get(), one_line(error));
    } catch (const std::exception& error) {
      if (snapshot) retire(*snapshot);
      log_.fail(container_stderr.get(), error.what());
    }
    return false;
  }

  // What has failed once isn't tried again: the next start is a normal one.
  static void retire(const Snapshot& snapshot) {
    int directory = snapshot.directory.get();
    kernel::call(SYS_renameat2, directory, snapshot_record, directory, retired_record, 0);
  }

  // Another start may have been quicker.
  bool taken() {
    auto other = find();
    return other && fits(*other);
  }

  std::string record_of(const image::Checkpoint& checkpoint) const {
    return json{{"version", 1},
                {"config", essence_},
                {"image", root_image(state_.pid)},
                {"files", to_json(recorded_files(checkpoint, essence_, state_.pid))}}
               .dump(1, ' ', false, json::error_handler_t::replace) +
           "\n";
  }

  void snapshot(const TakeSnapshot& take, const timespec& started) {
    try {
      log_.info("Started normally; the snapshot is taken at {}", when_);
      std::string signal_place = fmt::format("{}/{}/watcher", state_dir_, state_.id);
      Starting starting{state_.pid, pidfd_.get(), started, signal_place,
                        output_ ? &*output_ : nullptr};
      if (!wait_until_ready(readiness_, starting)) {
        log_.info("The container has ended before it was ready");
        return;
      }
      if (taken()) {
        log_.info("There is such a snapshot meanwhile");
        return;
      }
      check_replaceable(place_);
      auto text = [this](const image::Checkpoint& checkpoint) { return record_of(checkpoint); };
      take(state_, place_, {snapshot_record, text}, log_);
      log_.info("Snapshot taken: {}", place_);
    } catch (const Error& error) {
      log_.warn("No snapshot: {}", one_line(error));
    } catch (const std::exception& error) {
      log_.warn("No snapshot: {}", error.what());
    }
  }

  oci::State state_;
  std::string place_, when_;
  Readiness readiness_;
  json essence_;
  int clone_signal_;
  StartLog& log_;
  std::string state_dir_;
  UniqueFd pidfd_;
  std::optional<ContainerLog> output_;  // where readiness is a line of it
};

}  // namespace

void arm_snapshot(const oci::State& state, const oci::Config& config, const TakeSnapshot& take,
                  Log& log, std::string_view state_dir) {
  std::string name =
      mountmap::checkpoint_name(config.annotations.at(snapshot_annotation), {state.id, &config});
  if (!config.annotations.contains(snapshot_when_annotation))
    throw Error("take the snapshot", name)
        .because("nothing says when the container is ready")
        .hint(fmt::format("annotation {}: delay=5s, file=/PATH, listen=PORT, log=REGEX or signal",
                          snapshot_when_annotation));
  parse_readiness(config.annotations.at(snapshot_when_annotation));
  std::string place = checkpoint_place(name, mountmap::load_policy());
  check_replaceable(place);
  check_namespaces(config);
  StartLog start_log(state_dir, state.id);
  if (!start_log.begin(state.pid)) {
    log.info("{} is armed already: the hook is called twice", state.id);
    return;
  }
  Watch watch(state, config, place, start_log, std::string(state_dir));
  leave_behind([&](const std::function<void()>& ready) { watch.run(take, ready); });
}

}  // namespace stasis::hook
