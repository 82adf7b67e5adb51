#include "engine/files/dead_task.h"

#include <fmt/core.h>
#include <unistd.h>

#include "base/text.h"
#include "engine/mounts/tree.h"
#include "engine/tasks/clone_as.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

std::optional<pid_t> process_of(std::string path, const std::string& mountpoint) {
  if (!mounts::is_beneath(path, mountpoint)) return std::nullopt;
  path = mounts::relative_to(path, mountpoint);
  std::string_view rest = path;
  std::string_view id = text::next(rest, '/');
  auto pid = text::to_int<pid_t>(id);
  if (!pid || *pid <= 0) return std::nullopt;
  bool of_thread = text::next(rest, '/') == "task" && !rest.empty() && text::next(rest, '/') != id;
  return of_thread ? std::nullopt : pid;
}

Revenant::Revenant(pid_t init, pid_t id) {
  UniqueFd ns = kernel::open(fmt::format("/proc/{}/ns/pid", init), O_RDONLY);
  long pid = clone_into(ns.get(), id, 0, [] {
    for (;;) pause();
  });
  pid_ = static_cast<pid_t>(kernel::must(pid, "make a process with id", std::to_string(id)));
}

Revenant::~Revenant() { end_child(pid_); }

}  // namespace stasis::engine::files
