// Objects of the container's ipc namespace: System V shared memory, message queues
// and semaphores, with their ids, keys, owners and content; POSIX queues. The calling thread
// is in the namespace.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "engine/image/checkpoint.h"
#include "engine/namespaces/userns.h"

namespace stasis::engine::sysv {

// Why what the namespace holds can't be carried; empty: it can.
std::vector<std::string> obstacles();

struct PosixQueues {
  std::vector<image::PosixQueueEntry> entries;
  UniqueFd mount;  // to be closed when no task waits for that
};

struct Dumping {
  const userns::IdMap& ids;
  image::ImageWriter& writer;
  uint32_t ns_id;
  // How often the container's processes have each segment attached.
  const std::map<uint64_t, uint64_t>& attached;
  // Given each segment's memory; its content goes to pagemap-shmem-ID.
  const std::function<void(uint64_t id, UniqueFd memory)>& store_memory;
  PosixQueues& queues;
};
void dump(const Dumping& dumping);

bool has_objects(const image::Checkpoint& checkpoint);

// Brings the image's objects into a namespace that has none of theirs; `limits`
// are its sysctls as they shall be in the end. Until finish() segments and
// semaphores are everybody's, so that each task gets what it had of them.
void make(const image::Checkpoint& checkpoint, const image::IpcVarEntry& limits, unsigned workers);
void finish(const image::Checkpoint& checkpoint, const image::IpcVarEntry& limits);

}  // namespace stasis::engine::sysv
