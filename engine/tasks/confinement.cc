#include "engine/tasks/confinement.h"

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "base/text.h"
#include "engine/tasks/credentials.h"
#include "engine/tasks/seccomp.h"
#include "engine/tasks/thread_state.h"
#include "kernel/fs.h"
#include "kernel/proc_status.h"

namespace stasis::engine {

namespace {

// A descriptor number that the restored task does not use: the lowest, which
// is what the kernel gives to the next file opened.
int free_number(const image::TaskImage& task) {
  std::set<uint32_t> used;
  for (const image::FdinfoEntry& fd : task.fds) used.insert(fd.fd());
  uint32_t number = 0;
  while (used.count(number)) ++number;
  return static_cast<int>(number);
}

// The caller's word ("apparmor:PROFILE") goes before the image's.
std::string lsm_label(const image::CredsEntry& creds, const std::string& wanted) {
  size_t colon = wanted.find(':');
  return colon == std::string::npos ? creds.lsm_profile() : wanted.substr(colon + 1);
}

}  // namespace

Confinement::Confinement(const image::Checkpoint& checkpoint, const std::string& lsm_profile,
                         const Inherited* inherited)
    : checkpoint_(checkpoint),
      lsm_profile_(lsm_profile),
      inherited_(inherited),
      last_cap_(
          text::to_int<unsigned>(text::trim(kernel::read_file("/proc/sys/kernel/cap_last_cap")))
              .value_or(40)) {}

void Confinement::add(const LiveTask& task, const LiveThread& thread, SyscallBatch& batch) const {
  if (inherited_) return lower(task, thread, batch);
  const image::ThreadCoreEntry& t = thread.core->thread_core();
  restore_lsm_label(lsm_label(t.creds(), lsm_profile_), checkpoint_.inventory.lsmtype(),
                    free_number(*task.image), batch);
  // Without no_new_privs only CAP_SYS_ADMIN may set a filter; it is suspended
  // until the task is let go.
  add_filters(task, thread, batch);
  restore_credentials(t.creds(), last_cap_, batch);
  restore_death_signal(t, batch);  // a change of credentials clears it
}

// The leader brings along what all threads have.
void Confinement::add_filters(const LiveTask& task, const LiveThread& thread,
                              SyscallBatch& batch) const {
  const image::SeccompEntry& filters =
      checkpoint_.seccomp ? *checkpoint_.seccomp : image::SeccompEntry::default_instance();
  std::set<int> there, for_all;
  if (inherited_) there = inherited_->seccomp_filters;
  if (task.threads.size() > 1) for_all = common_filters(filters, *task.image);
  if (&thread != &task.threads.front()) there.merge(for_all);
  restore_seccomp(filters, thread.core->thread_core(), batch, there, for_all);
}

void Confinement::lower(const LiveTask& task, const LiveThread& thread, SyscallBatch& batch) const {
  const image::ThreadCoreEntry& t = thread.core->thread_core();
  auto now = kernel::parse_status(kernel::read_file(fmt::format("/proc/{}/status", thread.tid)));
  if (t.creds().no_new_privs() != 0 && !now.no_new_privs)
    batch.must("set no_new_privs of", SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  add_filters(task, thread, batch);
  lower_credentials(t.creds(), now, last_cap_, batch);
  restore_death_signal(t, batch);
}

}  // namespace stasis::engine
