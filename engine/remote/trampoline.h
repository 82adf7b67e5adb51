// Runs system calls in tasks that we make. Code and tables lie in one shared
// memory object at an address that is free in every layout of the image, so
// that the root task and all that it clones have it from birth and we read
// results directly.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "engine/remote/syscall_batch.h"
#include "engine/remote/tracee.h"

namespace stasis::engine {

// An address for `size` bytes that overlaps none of `taken` ([start, end)
// pairs in any order), page-aligned; 0 if there is none.
uint64_t find_common_hole(std::vector<std::pair<uint64_t, uint64_t>> taken, uint64_t size);

class Trampoline {
 public:
  // Maps itself into our own process. `taken`: see find_common_hole(); our own
  // mappings are added.
  explicit Trampoline(std::vector<std::pair<uint64_t, uint64_t>> taken);
  ~Trampoline();
  Trampoline(const Trampoline&) = delete;
  Trampoline& operator=(const Trampoline&) = delete;

  uint64_t start() const { return start_; }
  uint64_t end() const;

  // What a task that wasn't cloned from us maps, MAP_SHARED and at these addresses.
  struct Part {
    uint64_t address, size;
    int protection;
    uint64_t offset;
  };
  std::array<Part, 2> parts() const;
  int memory() const { return memory_.get(); }  // descriptor, borrowed

  // Runs the batch in a stopped task; it is stopped again afterwards.
  void run(Tracee& task, SyscallBatch& batch, const std::string& who);
  // One system call between two system call stops: without a trap, and so also
  // for the one that unmaps the trampoline. Needs PTRACE_O_TRACESYSGOOD.
  long run_traced(Tracee& task, const char* what, const std::string& who, long nr,
                  std::vector<uint64_t> args);

  // Puts data where tasks can read it until the next run(); returns its address.
  uint64_t stage(const void* bytes, size_t size);

 private:
  uint64_t start_ = 0;
  UniqueFd memory_;
};

}  // namespace stasis::engine
