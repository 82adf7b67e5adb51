// Who a thread is and what it may: uids, gids, groups, capabilities,
// securebits, no_new_privs, the LSM label.
#pragma once

#include <string>

#include "core.pb.h"
#include "engine/namespaces/userns.h"
#include "engine/remote/syscall_batch.h"
#include "inventory.pb.h"
#include "kernel/proc_status.h"

namespace stasis::engine {

// Dump: most is in /proc/PID/status, securebits only the thread can tell.
// `lsm_label` is /proc/PID/task/TID/attr/current, empty without an LSM; `ids` lead
// to what the image has.
class Credentials {
 public:
  explicit Credentials(SyscallBatch& batch);
  void store(const SyscallBatch& batch, const kernel::ProcStatus& status,
             const std::string& lsm_label, const userns::IdMap& ids,
             image::CredsEntry* creds) const;

 private:
  SyscallBatch::Slot securebits_;
};

// Restore, with all capabilities still held; the last thing a thread does. `last_cap` is
// /proc/sys/kernel/cap_last_cap.
void restore_credentials(const image::CredsEntry& creds, unsigned last_cap, SyscallBatch& batch);

// Restore of a thread that has what config.json gives it, maybe without any
// capability, and that comes back with no more: only what differs from `now` is
// changed, and the kernel refuses what would exceed it.
void lower_credentials(const image::CredsEntry& creds, const kernel::ProcStatus& now,
                       unsigned last_cap, SyscallBatch& batch);

// Only a thread itself may change its label, through its own /proc, which the
// container must have mounted; `number` is its lowest free descriptor. Nothing
// for an empty label. Fails where the kernel lacks the LSM: a task never comes
// back less confined.
void restore_lsm_label(const std::string& label, image::Lsmtype type, int number,
                       SyscallBatch& batch);

}  // namespace stasis::engine
