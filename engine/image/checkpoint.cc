#include "engine/image/checkpoint.h"

#include <sched.h>

namespace stasis::image {

uint64_t Checkpoint::namespaces() const {
  const TaskKobjIdsEntry& own = root().ids;
  const TaskKobjIdsEntry& dumper = inventory.root_ids();
  uint64_t kinds = 0;
  auto add = [&](bool is_set, uint32_t ours, uint32_t theirs, uint64_t kind) {
    if (is_set && ours != theirs) kinds |= kind;
  };
  add(own.has_pid_ns_id(), own.pid_ns_id(), dumper.pid_ns_id(), CLONE_NEWPID);
  add(own.has_net_ns_id(), own.net_ns_id(), dumper.net_ns_id(), CLONE_NEWNET);
  add(own.has_ipc_ns_id(), own.ipc_ns_id(), dumper.ipc_ns_id(), CLONE_NEWIPC);
  add(own.has_uts_ns_id(), own.uts_ns_id(), dumper.uts_ns_id(), CLONE_NEWUTS);
  add(own.has_mnt_ns_id(), own.mnt_ns_id(), dumper.mnt_ns_id(), CLONE_NEWNS);
  add(own.has_user_ns_id(), own.user_ns_id(), dumper.user_ns_id(), CLONE_NEWUSER);
  add(own.has_cgroup_ns_id(), own.cgroup_ns_id(), dumper.cgroup_ns_id(), CLONE_NEWCGROUP);
  add(own.has_time_ns_id(), own.time_ns_id(), dumper.time_ns_id(), CLONE_NEWTIME);
  return kinds;
}

}  // namespace stasis::image
