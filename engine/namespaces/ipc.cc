#include "engine/namespaces/ipc.h"

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <sys/syscall.h>

#include <cstddef>
#include <optional>

#include "base/text.h"
#include "engine/namespaces/sysctl.h"
#include "kernel/directories.h"
#include "kernel/fs.h"

namespace stasis::engine::ipc {
namespace {

using google::protobuf::FieldDescriptor;

// A file of one number and the field of IpcVarEntry that keeps it.
struct Sysctl {
  const char* path;
  const char* field;
  bool queue = false;  // absent without CONFIG_POSIX_MQUEUE
};
constexpr Sysctl single_values[] = {
    {"kernel/msgmax", "msg_ctlmax"},
    {"kernel/msgmnb", "msg_ctlmnb"},
    {"kernel/msgmni", "msg_ctlmni"},
    {"kernel/auto_msgmni", "auto_msgmni"},
    {"kernel/shmmax", "shm_ctlmax"},
    {"kernel/shmall", "shm_ctlall"},
    {"kernel/shmmni", "shm_ctlmni"},
    {"kernel/shm_rmid_forced", "shm_rmid_forced"},
    {"fs/mqueue/queues_max", "mq_queues_max", true},
    {"fs/mqueue/msg_max", "mq_msg_max", true},
    {"fs/mqueue/msgsize_max", "mq_msgsize_max", true},
    {"fs/mqueue/msg_default", "mq_msg_default", true},
    {"fs/mqueue/msgsize_default", "mq_msgsize_default", true},
};

const FieldDescriptor& field_of(const Sysctl& sysctl) {
  return *image::IpcVarEntry::descriptor()->FindFieldByName(sysctl.field);
}

uint64_t get(const image::IpcVarEntry& entry, const Sysctl& sysctl) {
  const FieldDescriptor& field = field_of(sysctl);
  return field.cpp_type() == FieldDescriptor::CPPTYPE_UINT64
             ? entry.GetReflection()->GetUInt64(entry, &field)
             : entry.GetReflection()->GetUInt32(entry, &field);
}

void set(image::IpcVarEntry& entry, const Sysctl& sysctl, uint64_t value) {
  const FieldDescriptor& field = field_of(sysctl);
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_UINT64)
    entry.GetReflection()->SetUInt64(&entry, &field, value);
  else
    entry.GetReflection()->SetUInt32(&entry, &field, static_cast<uint32_t>(value));
}

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
  image::IpcVarEntry entry;
  for (uint64_t value : numbers(semaphore_limits, sysctl::read(semaphore_limits)))
    entry.add_sem_ctls(static_cast<uint32_t>(value));
  for (const Sysctl& sysctl : single_values) set(entry, sysctl, value_of(sysctl).value_or(0));
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
    const uint64_t value = get(vars, sysctl);
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
