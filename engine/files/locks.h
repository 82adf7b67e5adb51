// Locks on files and leases: fdinfo tells of each open file's (filelocks.img).
#pragma once

#include <sys/types.h>

#include <map>
#include <string_view>
#include <vector>

#include "engine/files/file_kind.h"
#include "engine/image/checkpoint.h"
#include "engine/remote/syscall_batch.h"
#include "fdinfo.pb.h"

namespace stasis::engine::files {

class Restorer;

// A line of fdinfo: "1: POSIX  ADVISORY  WRITE 1234 fd:00:13 0 EOF".
struct HeldLock {
  image::FileLockEntry entry;  // kind, type and range
  pid_t taker = 0;             // who took it, in our pid namespace; negative: nobody knows
};
HeldLock parse_lock(std::string_view line);

// Null where there are none, or they may be taken along.
std::optional<Objection> lock_objection(const Probe& probe, const DumpPlan& plan);

// Those that are written down, in the order of finding them.
class FoundLocks {
 public:
  // `table`: of descriptors, to which POSIX locks belong; all others belong to
  // the open file, which we have as `duplicate`. `is_new`: not seen before.
  void add(const Probe& probe, pid_t root, uint32_t table, uint32_t file, bool is_new,
           int duplicate);
  std::vector<image::FileLockEntry> entries() const;

 private:
  struct Found {
    HeldLock lock;
    uint32_t table, file;
  };
  std::vector<Found> found_;
};

// What the task itself must do at the very end of its file work: closing any
// other descriptor of a file gives a process's POSIX locks up.
void take_locks(const image::Checkpoint& image, const image::TaskImage& task, SyscallBatch& batch);

// Leases are taken by us, who need no privilege of the task for it, when all
// files are open.
void take_leases(Restorer& restorer);

}  // namespace stasis::engine::files
