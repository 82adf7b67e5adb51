// All namespaces of a container together: what stands in the way, writing
// them down, which ones a restore makes or joins, and filling the new ones.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/log.h"
#include "engine/image/checkpoint.h"
#include "engine/namespaces/net_sysctls.h"
#include "engine/namespaces/ns_ids.h"
#include "engine/namespaces/semaphore_undo.h"
#include "engine/namespaces/sysv.h"
#include "engine/plan.h"

namespace stasis::engine::namespaces {

// Runs `action` while the calling thread, and no other, is in these namespaces
// (CLONE_NEWUTS | NEWIPC | NEWNET | NEWCGROUP) of a process. No fork and no
// thread: on a busy machine waiting for one takes longer than all the rest.
void in_namespaces(int pidfd, uint64_t flags, const std::function<void()>& action);

// Reads /proc and looks into the namespaces; touches no task. Names nested
// namespaces of single processes (`pids`: the whole container), a user
// namespace, POSIX queues, links that nobody cares for.
std::vector<Finding> obstacles(const DumpPlan& plan, const std::vector<pid_t>& pids);

// What the tasks have of the ipc namespace's objects.
struct SysvUse {
  std::map<uint64_t, uint64_t> attached;  // segment -> how often
  std::function<void(uint64_t segment, UniqueFd memory)> store_memory;
  sysv::PosixQueues queues;  // found
};
// Before the freeze; null where the network namespace isn't dumped.
std::unique_ptr<net::Sysctls> open_sysctls(const DumpPlan& plan, const NsIds& ids, int root_pidfd);

// The container's own semaphores.
std::vector<sysv::Semaphores> semaphores(const NsIds& ids, int root_pidfd);

// Writes utsns-, ipcns-*-, netdev-, netns-, timens- and pidns-ID.img, as far as
// the namespaces are the container's own. Tasks stand still; about 0.2 ms.
// `sysctls`: from open_sysctls().
void dump(const DumpPlan& plan, const NsIds& ids, const net::Sysctls* sysctls, int root_pidfd,
          SysvUse& sysv, image::ImageWriter& writer, Log& log);

// What the root task is cloned into. Time namespaces are prepared by
// timens::prepare(), cgroup namespaces by cgroup::Restorer::make_namespace().
struct Layout {
  uint64_t clone_flags = 0;
  struct Join {
    int fd;  // borrowed from the plan's inherited_fds
    uint64_t flag;
  };
  std::vector<Join> joins;  // by setns before the clone: external namespaces
};
// Throws when an external namespace's descriptor wasn't handed over.
Layout layout(const image::Checkpoint& checkpoint, const RestorePlan& plan);

// Fills the root task's new namespaces, from outside, where there is the right
// to: id maps, host name, ipc sysctls, loopback.
void restore(const image::Checkpoint& checkpoint, const RestorePlan& plan, pid_t root);

// Network links beside loopback, with their addresses and routes, once the runtime's hooks had
// their turn.
void restore_links(const image::Checkpoint& checkpoint, const RestorePlan& plan, pid_t root,
                   Log& log);

// System V objects in the namespace that a runtime made for `init`: returns its
// sysctls, which finish_ipc() wants. Throws when it is ours.
image::IpcVarEntry fill_ipc(const image::Checkpoint& checkpoint, pid_t init, unsigned workers);
// Once the tasks have what they had of them.
void finish_ipc(const image::Checkpoint& checkpoint, const image::IpcVarEntry& limits, pid_t root);

}  // namespace stasis::engine::namespaces
