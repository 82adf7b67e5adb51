#include "engine/tasks/limits.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>
#include <optional>

#include "base/text.h"
#include "kernel/fs.h"
#include "kernel/proc_limits.h"

namespace stasis::engine {

namespace {

// Nothing where the kernel has no such file.
std::optional<std::string> read_value(int proc, const char* name) {
  long fd = kernel::call(SYS_openat, proc, name, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  UniqueFd file(static_cast<int>(fd));
  return std::string(text::trim(kernel::read_all(file.get(), name)));
}

void restore_value(int proc, const char* name, const std::string& wanted, Log& log) {
  std::optional<std::string> now = read_value(proc, name);
  if (!now || *now == wanted) return;
  try {
    kernel::write_file_at(proc, name, wanted);
  } catch (const Error& error) {
    log.warn("{} stays {} instead of {}: {}", name, *now, wanted, error.what());
  }
}

}  // namespace

void store_limits(const FrozenTask& task, const userns::IdMap& ids, image::TaskCoreEntry* core) {
  for (const kernel::ResourceLimit& limit :
       kernel::parse_limits(kernel::read_file_at(task.proc.get(), "limits"))) {
    image::RlimitEntry* entry = core->mutable_rlimits()->add_rlimits();
    entry->set_cur(limit.soft);
    entry->set_max(limit.hard);
  }
  if (auto value = read_value(task.proc.get(), "oom_score_adj"))
    core->set_oom_score_adj(text::to_int<int32_t>(*value).value_or(0));
  if (auto value = read_value(task.proc.get(), "loginuid"))
    core->set_loginuid(
        ids.find_uid_inside(text::to_int<uint32_t>(*value).value_or(~0u)).value_or(~0u));
}

void restore_limits(const image::TaskCoreEntry& core, pid_t pid, const std::string& name) {
  kernel::ResourceLimits now =
      kernel::parse_limits(kernel::read_file("/proc/" + std::to_string(pid) + "/limits"));
  int count = std::min<int>(core.rlimits().rlimits_size(), RLIM_NLIMITS);
  for (int resource = 0; resource < count; ++resource) {
    const image::RlimitEntry& entry = core.rlimits().rlimits(resource);
    if (now[static_cast<size_t>(resource)] == kernel::ResourceLimit{entry.cur(), entry.max()})
      continue;
    rlimit64 limit{entry.cur(), entry.max()};
    kernel::must(kernel::call(SYS_prlimit64, pid, resource, &limit, nullptr),
                 "set the resource limits of", name);
  }
}

void restore_proc_values(const image::TaskCoreEntry& core, int proc, Log& log) {
  if (core.has_oom_score_adj())
    restore_value(proc, "oom_score_adj", std::to_string(core.oom_score_adj()), log);
}

void lower_limits(const image::TaskCoreEntry& core, const std::string& current,
                  SyscallBatch& batch) {
  kernel::ResourceLimits now = kernel::parse_limits(current);
  int count = std::min<int>(core.rlimits().rlimits_size(), RLIM_NLIMITS);
  for (int resource = 0; resource < count; ++resource) {
    const image::RlimitEntry& entry = core.rlimits().rlimits(resource);
    const kernel::ResourceLimit& has = now[static_cast<size_t>(resource)];
    rlimit64 limit{std::min<uint64_t>(entry.cur(), has.hard),
                   std::min<uint64_t>(entry.max(), has.hard)};
    if (has == kernel::ResourceLimit{limit.rlim_cur, limit.rlim_max}) continue;
    batch.must("set the resource limits of", SYS_prlimit64, 0, resource, batch.object(limit),
               nullptr);
  }
}

void lower_proc_values(const image::TaskCoreEntry& core, int proc, Log& log) {
  constexpr const char* score = "oom_score_adj";
  auto now = text::to_int<int32_t>(read_value(proc, score).value_or(""));
  if (core.has_oom_score_adj() && now && *now < core.oom_score_adj())
    restore_value(proc, score, std::to_string(core.oom_score_adj()), log);
}

}  // namespace stasis::engine
