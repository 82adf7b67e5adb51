// A whole checkpoint in memory: everything but page and file content. load()
// believes nothing: counts, sizes, addresses, ids and cross references are
// checked, so that code behind it can rely on them.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cgroup.pb.h"
#include "core.pb.h"
#include "engine/image/image.h"
#include "fdinfo.pb.h"
#include "fs.pb.h"
#include "inventory.pb.h"
#include "mm.pb.h"
#include "mnt.pb.h"
#include "netdev.pb.h"
#include "ns.pb.h"
#include "pstree.pb.h"
#include "stasis.pb.h"

namespace stasis::image {

struct PagemapImage {
  std::vector<PagemapEntry> entries;  // ascending
  uint32_t pages_id = 0;              // raw("pages-ID")
};

// Bytes of a task's memory that differ from what the image holds.
struct MemoryPatch {
  uint64_t address;
  std::string bytes;
};

struct TaskImage {
  PstreeEntry tree;
  std::vector<CoreEntry> threads;  // parallel to tree.threads(), leader first
  TaskKobjIdsEntry ids;
  // The rest is empty for a dead task.
  MmEntry mm;
  std::vector<FdinfoEntry> fds;
  FsEntry fs;
  std::vector<PagemapEntry> pagemap;
  uint32_t pages_id = 0;
  std::vector<MemoryPatch> patches;  // none in an image: a restore's

  const TaskCoreEntry& core() const { return threads.front().tc(); }
  bool dead() const { return core().task_state() == task_dead; }
  bool stopped() const { return core().task_state() == task_stopped; }
};

struct PipeData {
  PipeDataEntry entry;
  std::string bytes;
};

struct TcpStreamImage {
  TcpStreamEntry entry;
  std::string received, sent;
};

struct IpcMessage {
  uint64_t type;
  std::string text;
};
struct MessageQueue {
  IpcMsgEntry entry;
  std::vector<IpcMessage> messages;
};
struct SemaphoreSet {
  IpcSemEntry entry;
  std::vector<uint16_t> values;
};
struct SharedSegment {
  IpcShmEntry entry;
  std::string bytes;  // padded to 4; empty where the content is in Checkpoint::shmem
};

struct Checkpoint {
  ImageDir dir;
  InventoryEntry inventory;
  std::vector<TaskImage> tasks;  // the root first, parents before children
  std::map<uint32_t, FileEntry> files;
  std::vector<PipeData> pipes, fifos;
  std::map<uint64_t, PagemapImage> shmem;            // by VmaEntry.shmid
  std::map<uint32_t, std::vector<MntEntry>> mounts;  // by mnt_ns_id
  std::vector<RemapFilePathEntry> remaps;
  std::vector<MemfdInodeEntry> memfds;
  std::vector<TtyInfoEntry> terminals;
  std::vector<TtyDataEntry> terminal_data;
  std::vector<FileLockEntry> locks;
  // Those of the root task's namespaces, where they are the container's own.
  std::optional<UtsnsEntry> uts;
  std::optional<IpcVarEntry> ipc;
  std::vector<SharedSegment> segments;
  std::vector<MessageQueue> queues;
  std::vector<SemaphoreSet> semaphores;
  std::optional<TimensEntry> timens;
  std::optional<PidnsEntry> pidns;
  std::optional<UsernsEntry> userns;
  std::optional<NetnsEntry> netns;
  std::vector<NetDeviceEntry> netdevs;
  std::optional<CgroupEntry> cgroup;
  std::optional<SeccompEntry> seccomp;
  std::optional<StasisEntry> more;                        // of images that stasis made
  std::map<uint32_t, TcpStreamImage> streams;             // of TCP connections, by InetSkEntry.ino
  std::map<uint32_t, SocketOptionsEntry> socket_options;  // of `more`, by InetSkEntry.id

  const TaskImage& root() const { return tasks.front(); }
  // CLONE_NEW* of the kinds of namespace that the container has of its own.
  uint64_t namespaces() const;
};

// Of the System V shared memory, by id, in whole pages.
std::map<uint64_t, uint64_t> segment_sizes(const Checkpoint& image);

// Reads and validates all images of `dir` (borrowed) except the content of raw
// ones. Throws Error("read image", FILE) naming entry and field.
Checkpoint load(int dir, const Limits& limits = {});
Checkpoint load(ImageDir dir);

// For looking at images that load() may refuse: what can't be read is empty
// (no tasks, a thread without fields), and no reference is sure to lead
// anywhere. Throws only where there is no checkpoint.
struct Survey {
  Checkpoint image;
  std::vector<Error> complaints;  // why load() refuses it; none: it doesn't
};
Survey survey(ImageDir dir);

}  // namespace stasis::image
