#include "engine/namespaces/ipc.h"

#include <fmt/format.h>
#include <sys/syscall.h>

#include <cstddef>
#include <optional>

#include "base/text.h"
#include "engine/namespaces/sysctl.h"
#include "kernel/directories.h"
#include "kernel/fs.h"

namespace stasis::engine::ipc {
namespace {

using Entry = image::IpcVarEntry;

// A file of one number and the field that keeps it. Protobuf's reflection would do,
// but takes long to set itself up, which is here while tasks wait.
struct Sysctl {
  const char* path;
  uint64_t (*get)(const Entry& entry);
  void (*set)(Entry& entry, uint64_t value);
  bool queue;  // absent without CONFIG_POSIX_MQUEUE
};
template <auto get, auto set>
constexpr Sysctl number(const char* path, bool queue = false) {
  return {path, [](const Entry& entry) -> uint64_t { return (entry.*get)(); },
          [](Entry& entry, uint64_t value) {
            (entry.*set)(static_cast<decltype((entry.*get)())>(value));
          },
          queue};
}
constexpr Sysctl single_values[] = {
    number<&Entry::msg_ctlmax, &Entry::set_msg_ctlmax>("kernel/msgmax"),
    number<&Entry::msg_ctlmnb, &Entry::set_msg_ctlmnb>("kernel/msgmnb"),
    number<&Entry::msg_ctlmni, &Entry::set_msg_ctlmni>("kernel/msgmni"),
    number<&Entry::auto_msgmni, &Entry::set_auto_msgmni>("kernel/auto_msgmni"),
    number<&Entry::shm_ctlmax, &Entry::set_shm_ctlmax>("kernel/shmmax"),
    number<&Entry::shm_ctlall, &Entry::set_shm_ctlall>("kernel/shmall"),
    number<&Entry::shm_ctlmni, &Entry::set_shm_ctlmni>("kernel/shmmni"),
    number<&Entry::shm_rmid_forced, &Entry::set_shm_rmid_forced>("kernel/shm_rmid_forced"),
    number<&Entry::mq_queues_max, &Entry::set_mq_queues_max>("fs/mqueue/queues_max", true),
    number<&Entry::mq_msg_max, &Entry::set_mq_msg_max>("fs/mqueue/msg_max", true),
    number<&Entry::mq_msgsize_max, &Entry::set_mq_msgsize_max>("fs/mqueue/msgsize_max", true),
    number<&Entry::mq_msg_default, &Entry::set_mq_msg_default>("fs/mqueue/msg_default", true),
    number<&Entry::mq_msgsize_default, &Entry::set_mq_msgsize_default>("fs/mqueue/msgsize_default",
                                                                       true),
};

std::vector<uint64_t> numbers(const std::string& name, const std::string& text) {
  std::vector<uint64_t> values;
  for (std::string_view word : text::words(text)) {
    auto value = text::to_int<uint64_t>(word);
    if (!value)
      throw Error("read", "/proc/sys/" + name).because("unexpected value \"" + text + "\"");
    values.push_back(*value);
  }
  return values;
}

// Nothing when the file is missing and may be.
std::optional<uint64_t> value_of(const Sysctl& sysctl) {
  auto text = sysctl.queue ? sysctl::find(sysctl.path) : sysctl::read(sysctl.path);
  if (!text) return std::nullopt;
  auto values = numbers(sysctl.path, *text);
  if (values.size() != 1)
    throw Error("read", std::string("/proc/sys/") + sysctl.path).because("one number was expected");
  return values.front();
}

constexpr const char* semaphore_limits = "kernel/sem";

// The id that the next object shall get; -1 means "no wish" and can't be
// written. Missing without CONFIG_CHECKPOINT_RESTORE.
template <typename Keep>
void read_next_id(const char* name, Keep keep) {
  auto text = sysctl::find(name);
  if (!text) return;
  if (auto id = text::to_int<int32_t>(*text); id && *id >= 0) keep(static_cast<uint32_t>(*id));
}

}  // namespace

image::IpcVarEntry read() {
  Entry entry;
  for (uint64_t value : numbers(semaphore_limits, sysctl::read(semaphore_limits)))
    entry.add_sem_ctls(static_cast<uint32_t>(value));
  for (const Sysctl& sysctl : single_values) sysctl.set(entry, value_of(sysctl).value_or(0));
  read_next_id("kernel/msg_next_id", [&](uint32_t id) { entry.set_msg_next_id(id); });
  read_next_id("kernel/sem_next_id", [&](uint32_t id) { entry.set_sem_next_id(id); });
  read_next_id("kernel/shm_next_id", [&](uint32_t id) { entry.set_shm_next_id(id); });
  return entry;
}

void restore(const image::IpcVarEntry& vars) {
  std::vector<uint64_t> wanted(vars.sem_ctls().begin(), vars.sem_ctls().end());
  if (!wanted.empty() && wanted != numbers(semaphore_limits, sysctl::read(semaphore_limits)))
    sysctl::write(semaphore_limits, fmt::format("{}", fmt::join(wanted, " ")));

  for (const Sysctl& sysctl : single_values) {
    const uint64_t value = sysctl.get(vars);
    // Zero queue limits come from a kernel without queues.
    if (sysctl.queue && value == 0) continue;
    auto here = value_of(sysctl);
    if (here && *here != value) sysctl::write(sysctl.path, std::to_string(value));
  }
  auto next_id = [](const char* name, bool is_set, uint32_t id) {
    if (is_set) sysctl::write(name, std::to_string(id));
  };
  next_id("kernel/msg_next_id", vars.has_msg_next_id(), vars.msg_next_id());
  next_id("kernel/sem_next_id", vars.has_sem_next_id(), vars.sem_next_id());
  next_id("kernel/shm_next_id", vars.has_shm_next_id(), vars.shm_next_id());
}

}  // namespace stasis::engine::ipc
