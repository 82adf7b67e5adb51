#include "hook/in_place.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <time.h>

#include <bit>
#include <cerrno>

#include "base/text.h"
#include "engine/in_place.h"
#include "hook/checkpoints.h"
#include "hook/mount_fit.h"
#include "hook/watcher.h"
#include "kernel/fs.h"
#include "mountmap/policy.h"
#include "oci/capability.h"

namespace stasis::hook {

namespace {

std::string log_path(std::string_view state_dir, const std::string& id) {
  return fmt::format("{}/{}/restore.log", state_dir, id);
}

constexpr std::string_view failure_mark = " Error: ";

// /run/stasis/ID/restore.log: what becomes of the restore.
class RestoreLog : public Log {
 public:
  RestoreLog(std::string_view state_dir, const std::string& id)
      : file_(kernel::open(log_path(state_dir, id), O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW,
                           0600)) {}
  // Begins it anew, and holds it until all that have it open have ended. False:
  // another has it.
  bool begin() {
    if (kernel::call(SYS_flock, file_.get(), LOCK_EX | LOCK_NB) < 0) return false;
    return kernel::call(SYS_ftruncate, file_.get(), 0) == 0;
  }
  void write(LogLevel level, std::string_view line) override {
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    std::string_view mark = level == LogLevel::error     ? failure_mark
                            : level == LogLevel::warning ? " Warning: "
                                                         : " ";
    std::string text = fmt::format("{}.{:03}{}{}\n", now.tv_sec, now.tv_nsec / 1000000, mark, line);
    kernel::call(SYS_write, file_.get(), text.data(), text.size());
  }

 private:
  UniqueFd file_;
};

std::string one_line(const Error& error) {
  return fmt::format("{}{}{}", error.what(), error.remedy().empty() ? "" : "; ", error.remedy());
}

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

// The container's own standard error, and so what whoever reads its log sees: all
// that a runtime tells of a start that failed is that it did.
UniqueFd stderr_of(pid_t init) {
  UniqueFd process = kernel::pidfd_open(init);
  return UniqueFd(static_cast<int>(kernel::call(SYS_pidfd_getfd, process.get(), 2, 0)));
}

void fail(int container_stderr, Log& log, const std::string& what) {
  log.write(LogLevel::error, what);
  std::string line = "stasis: " + what + "\n";
  kernel::call(SYS_write, container_stderr, line.data(), line.size());
}

void watch(pid_t init, const image::Checkpoint& checkpoint, Log& log,
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
    fail(container_stderr.get(), log, one_line(error));
  } catch (const std::exception& error) {
    fail(container_stderr.get(), log, error.what());
  }
}

}  // namespace

void arm(const oci::State& state, const oci::Config& config, Log& log, std::string_view state_dir) {
  const std::string& name = config.annotations.at(restore_annotation);
  // Not the built-in rules in place of a file that can't be read: they allow more.
  UniqueFd directory = open_checkpoint(name, mountmap::load_policy());
  image::Checkpoint checkpoint = image::load(directory.get());
  engine::check_in_place(checkpoint);
  check_namespaces(config);
  check_privileges(checkpoint, config);
  RestoreLog restore_log(state_dir, state.id);
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
  std::string path = log_path(state_dir, state.id);
  long fd = kernel::call(SYS_openat, AT_FDCWD, path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return;  // it was armed by nobody
  UniqueFd file(static_cast<int>(fd));
  long locked;
  do locked = kernel::call(SYS_flock, file.get(), LOCK_SH);
  while (locked == -EINTR);
  kernel::must(locked, "wait for", "the restore");
  std::string text = kernel::read_all(file.get(), path);
  size_t mark = text.find(failure_mark);
  if (mark == text.npos) return;
  std::string_view rest = std::string_view(text).substr(mark + failure_mark.size());
  throw Error("start", state.id + " from its checkpoint")
      .because(std::string(text::next(rest, '\n')));
}

}  // namespace stasis::hook
