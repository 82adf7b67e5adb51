// Seccomp filters: seccomp.img holds each filter once, with the one below it.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "cgroup.pb.h"
#include "core.pb.h"
#include "engine/image/checkpoint.h"
#include "engine/image/image.h"
#include "engine/remote/syscall_batch.h"
#include "engine/remote/tracee.h"

namespace stasis::engine {

// Dump: filters shared by tasks (inherited over fork) are written once.
class SeccompFilters {
 public:
  // `filters`: how many the thread has (/proc/PID/status), unknown: -1.
  void store(const Tracee& thread, unsigned mode, image::ThreadCoreEntry* core);
  void write(image::ImageWriter& writer) const;  // nothing where there are none

 private:
  image::SeccompEntry entry_;
  std::map<std::string, uint32_t> known_;  // filter with flags and index below it -> index
};

// The programs of a thread's filters, oldest first.
std::vector<std::string> seccomp_programs(const Tracee& thread);

// The numbers of the filters that all threads of the task have.
std::set<int> common_filters(const image::SeccompEntry& filters, const image::TaskImage& task);

// Restore: adds the thread's filters, outermost last. The tracer suspends
// seccomp meanwhile (PTRACE_O_SUSPEND_SECCOMP). `leave_out`: numbers of filters that
// it has already. `for_all`: those that the other threads of the process get from it:
// the kernel synchronizes threads only when they share their filters.
void restore_seccomp(const image::SeccompEntry& filters, const image::ThreadCoreEntry& core,
                     SyscallBatch& batch, const std::set<int>& leave_out,
                     const std::set<int>& for_all);

}  // namespace stasis::engine
