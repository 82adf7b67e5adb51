// The kinds of objects of an ipc namespace; what sysv.cc alone needs of each.
#pragma once

#include <sys/ipc.h>

#include <functional>
#include <string>

#include "engine/namespaces/sysv.h"
#include "kernel/call.h"

namespace stasis::engine::sysv {

// Of an object: its permissions as the kernel has them, and as the image has them.
image::IpcDescEntry describe(int id, const ipc_perm& perm, const userns::IdMap& ids,
                             const std::string& subject);

// Runs `create` (one of the get calls) as the object's creator such that it gets
// the id it had. `counter`: the sysctl that tells the kernel which id is next.
void create_with_id(const image::IpcDescEntry& desc, const char* counter, const userns::IdMap& ids,
                    const std::string& subject, const std::function<long()>& create);

// Sets owner and permissions as the image has them.
void set_owner(ipc_perm& perm, const image::IpcDescEntry& desc, const userns::IdMap& ids,
               const std::string& subject);

std::vector<std::string> segment_obstacles();
void dump_segments(const Dumping& dumping);
void make_segment(const image::SharedSegment& segment, const image::Checkpoint& checkpoint,
                  const userns::IdMap& ids, unsigned workers);
void finish_segment(const image::SharedSegment& segment, const userns::IdMap& ids);

void dump_queues(const Dumping& dumping);
void make_queue(const image::MessageQueue& queue, const userns::IdMap& ids);

void dump_semaphores(const Dumping& dumping);
void make_semaphores(const image::SemaphoreSet& set, const userns::IdMap& ids);
void finish_semaphores(const image::SemaphoreSet& set, const userns::IdMap& ids);

std::vector<std::string> queue_obstacles();
void dump_posix_queues(const Dumping& dumping);
void make_posix_queue(const image::PosixQueueEntry& entry, const userns::IdMap& ids);

}  // namespace stasis::engine::sysv
