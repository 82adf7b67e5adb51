// Files of /proc of processes that have ended: they are opened again of ones
// that live until all is in place.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

namespace stasis::engine::files {

// The process that a path belongs to, as the proc file system at `mountpoint`
// knows it; nothing where that isn't a process's, or is one of its threads'.
std::optional<pid_t> process_of(std::string path, const std::string& mountpoint);

// A process with this id in the pid namespace of `init`, as long as the object
// lives: nobody may enter a directory of one that has ended.
class Revenant {
 public:
  Revenant(pid_t init, pid_t id);
  ~Revenant();
  Revenant(const Revenant&) = delete;
  Revenant& operator=(const Revenant&) = delete;

 private:
  pid_t pid_;  // in our namespace
};

}  // namespace stasis::engine::files
