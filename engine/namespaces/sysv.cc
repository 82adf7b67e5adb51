#include "engine/namespaces/sysv.h"

#include <fmt/format.h>
#include <sys/shm.h>
#include <sys/syscall.h>

#include <set>

#include "engine/image/format.h"
#include "engine/namespaces/act_as.h"
#include "engine/namespaces/ipc.h"
#include "engine/namespaces/sysctl.h"
#include "engine/namespaces/sysv_kinds.h"

namespace stasis::engine::sysv {
namespace {

constexpr uint32_t permission_bits = 0777;

// While objects are made no limit is in the way: they may be older than those
// that the namespace has now.
void lift_limits(const image::IpcVarEntry& limits, const userns::IdMap& ids) {
  image::IpcVarEntry wide = limits;
  constexpr int32_t most = INT32_MAX;
  constexpr uint32_t most_objects = 32768;
  constexpr uint32_t most_queued = 65536, longest_queued = 16 << 20;
  wide.set_msg_ctlmax(most);
  wide.set_msg_ctlmnb(most);
  wide.set_msg_ctlmni(most_objects);
  wide.set_shm_ctlmax(ULONG_MAX - (1 << 24));
  wide.set_shm_ctlall(ULONG_MAX - (1 << 24));
  wide.set_shm_ctlmni(most_objects);
  wide.set_shm_rmid_forced(0);
  if (limits.mq_queues_max() != 0) {  // else without a meaning
    wide.set_mq_queues_max(most);
    wide.set_mq_msg_max(most_queued);
    wide.set_mq_msgsize_max(longest_queued);
  }
  wide.clear_sem_ctls();
  for (uint32_t value : {uint32_t{UINT16_MAX}, uint32_t{most}, 500U, most_objects})
    wide.add_sem_ctls(value);
  wide.clear_msg_next_id();
  wide.clear_sem_next_id();
  wide.clear_shm_next_id();
  ActAsRoot root(ids);
  ipc::restore(wide);
}

// Segments that some task of the image has attached.
std::set<uint64_t> attached_segments(const image::Checkpoint& checkpoint) {
  std::set<uint64_t> ids;
  for (const image::TaskImage& task : checkpoint.tasks)
    for (const image::VmaEntry& vma : task.mm.vmas())
      if (vma.status() & image::vma_sysvipc) ids.insert(vma.shmid());
  return ids;
}

}  // namespace

image::IpcDescEntry describe(int id, const ipc_perm& perm, const userns::IdMap& ids,
                             const std::string& subject) {
  image::IpcDescEntry desc;
  desc.set_key(static_cast<uint32_t>(perm.__key));
  desc.set_uid(ids.uid_inside(perm.uid, subject));
  desc.set_gid(ids.gid_inside(perm.gid, subject));
  desc.set_cuid(ids.uid_inside(perm.cuid, subject));
  desc.set_cgid(ids.gid_inside(perm.cgid, subject));
  desc.set_mode(perm.mode);
  desc.set_id(static_cast<uint32_t>(id));
  return desc;
}

void create_with_id(const image::IpcDescEntry& desc, const char* counter, const userns::IdMap& ids,
                    const std::string& subject, const std::function<long()>& create) {
  sysctl::write(counter, std::to_string(desc.id()));
  long id = 0;
  {
    // The creator of an object can't be changed afterwards.
    ActAs creator(ids.uid_outside(desc.cuid(), subject), ids.gid_outside(desc.cgid(), subject),
                  subject);
    id = create();
  }
  kernel::must(id, "make", subject);
  if (static_cast<uint32_t>(id) != desc.id())
    throw Error("make", subject)
        .because(fmt::format("its id is taken: it got {} instead", id))
        .hint("nothing else may use the container's ipc namespace during the restore");
}

void set_owner(ipc_perm& perm, const image::IpcDescEntry& desc, const userns::IdMap& ids,
               const std::string& subject) {
  perm.uid = ids.uid_outside(desc.uid(), subject);
  perm.gid = ids.gid_outside(desc.gid(), subject);
  perm.mode = static_cast<decltype(perm.mode)>(desc.mode() & permission_bits);
}

std::vector<std::string> obstacles() {
  std::vector<std::string> found = segment_obstacles();
  for (std::string& more : queue_obstacles()) found.push_back(std::move(more));
  return found;
}

void dump(const Dumping& dumping) {
  dump_segments(dumping);
  dump_queues(dumping);
  dump_semaphores(dumping);
  dump_posix_queues(dumping);
}

bool has_objects(const image::Checkpoint& checkpoint) {
  return !checkpoint.segments.empty() || !checkpoint.queues.empty() ||
         !checkpoint.semaphores.empty() ||
         (checkpoint.more && checkpoint.more->posix_queues_size() > 0);
}

void make(const image::Checkpoint& checkpoint, const image::IpcVarEntry& limits, unsigned workers) {
  const userns::IdMap ids(checkpoint.userns);
  const auto attached = attached_segments(checkpoint);
  for (const image::SharedSegment& segment : checkpoint.segments)
    if (limits.shm_rmid_forced() && !attached.count(segment.entry.desc().id()))
      throw Error("restore", fmt::format("shared memory segment {}", segment.entry.desc().id()))
          .because("nobody has it attached, and kernel.shm_rmid_forced is set")
          .hint("clear the sysctl in config.json");
  lift_limits(limits, ids);
  for (const image::SharedSegment& segment : checkpoint.segments)
    make_segment(segment, checkpoint, ids, workers);
  for (const image::MessageQueue& queue : checkpoint.queues) make_queue(queue, ids);
  for (const image::SemaphoreSet& set : checkpoint.semaphores) make_semaphores(set, ids);
  if (!checkpoint.more) return;
  for (const image::PosixQueueEntry& queue : checkpoint.more->posix_queues())
    make_posix_queue(queue, ids);
}

void finish(const image::Checkpoint& checkpoint, const image::IpcVarEntry& limits) {
  const userns::IdMap ids(checkpoint.userns);
  for (const image::SharedSegment& segment : checkpoint.segments) finish_segment(segment, ids);
  for (const image::SemaphoreSet& set : checkpoint.semaphores) finish_semaphores(set, ids);
  ActAsRoot root(ids);
  ipc::restore(limits);
}

}  // namespace stasis::engine::sysv
