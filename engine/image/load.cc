// Reads all images of a checkpoint, then checks them against each other.
#include <linux/mman.h>
#include <sched.h>

#include <cstring>
#include <functional>

#include "engine/image/check.h"

namespace stasis::image {
namespace {

// Descriptor tables, by files_id: tasks that share one are read one image.
using Tables = std::map<uint32_t, std::vector<FdinfoEntry>>;

// Carries out a step: load() lets it throw, survey() keeps what it threw.
using Attempt = std::function<void(const std::function<void()>&)>;

PagemapImage read_pagemap(const ImageDir& dir, const std::string& stem) {
  PagemapImage pagemap;
  Reader reader = dir.read(stem);
  PagemapHead head;
  if (!reader.next(head)) throw bad_image(stem, -1, "has no head");
  pagemap.pages_id = head.pages_id();
  for (PagemapEntry entry; reader.next(entry);) pagemap.entries.push_back(entry);
  return pagemap;
}

std::vector<PipeData> read_pipes(const ImageDir& dir, const char* stem) {
  std::vector<PipeData> pipes;
  if (!dir.has(stem)) return pipes;
  Reader reader = dir.read(stem);
  for (PipeDataEntry entry; reader.next(entry);)
    pipes.push_back({entry, std::string(reader.payload(entry.bytes()))});
  return pipes;
}

void read_threads(const ImageDir& dir, TaskImage& task) {
  auto& tids = *task.tree.mutable_threads();
  for (int i = 0; i < tids.size(); ++i)
    if (tids[i] == task.tree.pid()) tids.SwapElements(0, i);
  for (uint32_t tid : tids) task.threads.push_back(dir.one<CoreEntry>(stem_of("core", tid)));
  expect(task.threads.front().has_tc(), stem_of("core", task.tree.pid()), -1, "no tc");
}

void read_memory(const ImageDir& dir, TaskImage& task) {
  task.mm = dir.one<MmEntry>(stem_of("mm", task.tree.pid()));
  PagemapImage pagemap = read_pagemap(dir, stem_of("pagemap", task.tree.pid()));
  task.pagemap = std::move(pagemap.entries);
  task.pages_id = pagemap.pages_id;
}

TaskImage read_task(const ImageDir& dir, const PstreeEntry& tree, Tables& tables,
                    const Attempt& attempt) {
  TaskImage task;
  task.tree = tree;
  uint32_t pid = tree.pid();
  attempt([&] { read_threads(dir, task); });
  if (task.threads.empty()) task.threads.emplace_back();  // a survey: nothing known
  attempt([&] {
    if (task.threads.front().has_ids())
      task.ids = task.threads.front().ids();
    else if (!task.dead() || dir.has(stem_of("ids", pid)))
      task.ids = dir.one<TaskKobjIdsEntry>(stem_of("ids", pid));
  });
  if (task.dead()) return task;
  attempt([&] { task.fs = dir.one<FsEntry>(stem_of("fs", pid)); });
  attempt([&] {
    uint32_t id = task.ids.files_id();
    auto [table, is_new] = tables.try_emplace(id);
    if (is_new) table->second = dir.all<FdinfoEntry>(stem_of("fdinfo", id));
    task.fds = table->second;
  });
  attempt([&] { read_memory(dir, task); });
  return task;
}

void read_tree(Checkpoint& image, const Attempt& attempt) {
  std::vector<PstreeEntry> tree = image.dir.all<PstreeEntry>("pstree");
  check_tree(tree, image.dir.limits());
  Tables tables;
  for (const PstreeEntry& entry : tree)
    image.tasks.push_back(read_task(image.dir, entry, tables, attempt));
}

// Of sockets that are missing here the checks say more.
void read_streams(Checkpoint& image) {
  for (const auto& [id, file] : image.files) {
    std::string stem = fmt::format("tcp-stream-{:x}", file.isk().ino());
    if (file.type() != INETSK || !file.has_isk() || !image.dir.has(stem)) continue;
    Reader reader = image.dir.read(stem);
    TcpStreamImage stream;
    if (!reader.next(stream.entry)) throw bad_image(stem, -1, "has no entry");
    stream.received = reader.payload(stream.entry.inq_len());
    stream.sent = reader.payload(stream.entry.outq_len());
    image.streams.emplace(file.isk().ino(), std::move(stream));
  }
}

void read_files(Checkpoint& image) {
  const ImageDir& dir = image.dir;
  for (FileEntry& file : dir.all<FileEntry>("files")) {
    uint32_t id = file.id();
    expect(id != 0 && image.files.emplace(id, std::move(file)).second, "files", -1,
           "file {}: that id again", id);
  }
  read_streams(image);
  image.pipes = read_pipes(dir, "pipes-data");
  image.fifos = read_pipes(dir, "fifo-data");
  image.remaps = dir.all<RemapFilePathEntry>("remap-fpath");
  image.memfds = dir.all<MemfdInodeEntry>("memfd");
  image.terminals = dir.all<TtyInfoEntry>("tty-info");
  image.terminal_data = dir.all<TtyDataEntry>("tty-data");
  image.locks = dir.all<FileLockEntry>("filelocks");
}

std::vector<MessageQueue> read_queues(const ImageDir& dir, const std::string& stem) {
  std::vector<MessageQueue> queues;
  if (!dir.has(stem)) return queues;
  Reader reader = dir.read(stem);
  for (IpcMsgEntry entry; reader.next(entry);) {
    MessageQueue queue{entry, {}};
    for (uint32_t i = 0; i < entry.qnum(); ++i) {
      IpcMsg message;
      if (!reader.next(message)) throw reader.error("ends before the last message");
      std::string_view padded = reader.payload((message.msize() + uint64_t{7}) / 8 * 8);
      queue.messages.push_back({message.mtype(), std::string(padded.substr(0, message.msize()))});
    }
    queues.push_back(std::move(queue));
  }
  return queues;
}

// Entries of M, each followed by the bytes that its format tells.
template <typename M, typename Add>
void read_with_payload(const ImageDir& dir, const std::string& stem, Add add) {
  if (!dir.has(stem)) return;
  Reader reader = dir.read(stem);
  const Format* format = format_of(stem);
  for (M entry; reader.next(entry);) add(entry, reader.payload(format->payload(entry)));
}

void read_ipc(Checkpoint& image, uint32_t id) {
  const ImageDir& dir = image.dir;
  image.ipc = dir.maybe_one<IpcVarEntry>(stem_of("ipcns-var", id));
  image.queues = read_queues(dir, stem_of("ipcns-msg", id));
  read_with_payload<IpcSemEntry>(
      dir, stem_of("ipcns-sem", id), [&](const IpcSemEntry& entry, std::string_view bytes) {
        SemaphoreSet set{entry, std::vector<uint16_t>(entry.nsems())};
        std::memcpy(set.values.data(), bytes.data(), set.values.size() * sizeof(uint16_t));
        image.semaphores.push_back(std::move(set));
      });
  read_with_payload<IpcShmEntry>(dir, stem_of("ipcns-shm", id),
                                 [&](const IpcShmEntry& entry, std::string_view bytes) {
                                   image.segments.push_back({entry, std::string(bytes)});
                                 });
}

// A task may have a mount namespace of its own within the container.
void read_mounts(Checkpoint& image) {
  for (const TaskImage& task : image.tasks) {
    uint32_t id = task.ids.mnt_ns_id();
    if (!task.ids.has_mnt_ns_id() || id == image.inventory.root_ids().mnt_ns_id()) continue;
    auto [mounts, is_new] = image.mounts.try_emplace(id);
    if (is_new) mounts->second = image.dir.all<MntEntry>(stem_of("mountpoints", id));
  }
}

void read_namespaces(Checkpoint& image) {
  const ImageDir& dir = image.dir;
  const TaskKobjIdsEntry& ids = image.root().ids;
  uint64_t own = image.namespaces();
  if (own & CLONE_NEWUTS) image.uts = dir.maybe_one<UtsnsEntry>(stem_of("utsns", ids.uts_ns_id()));
  if (own & CLONE_NEWIPC) read_ipc(image, ids.ipc_ns_id());
  if (own & CLONE_NEWPID)
    image.pidns = dir.maybe_one<PidnsEntry>(stem_of("pidns", ids.pid_ns_id()));
  if (own & CLONE_NEWUSER)
    image.userns = dir.maybe_one<UsernsEntry>(stem_of("userns", ids.user_ns_id()));
  if (own & CLONE_NEWNET) {
    image.netns = dir.maybe_one<NetnsEntry>(stem_of("netns", ids.net_ns_id()));
    image.netdevs = dir.all<NetDeviceEntry>(stem_of("netdev", ids.net_ns_id()));
  }
  // The clocks are under id 0 when the tasks were in the dumper's time namespace.
  std::string own_clocks = stem_of("timens", ids.time_ns_id());
  bool has_own = (own & CLONE_NEWTIME) && dir.has(own_clocks);
  image.timens = dir.maybe_one<TimensEntry>(has_own ? own_clocks : "timens-0");
  image.cgroup = dir.maybe_one<CgroupEntry>("cgroup");
  for (const StasisEntry& entry : dir.all<StasisEntry>("stasis")) {
    if (!image.more) image.more.emplace();
    image.more->MergeFrom(entry);
  }
  if (image.more) {
    for (SocketOptionsEntry& options : *image.more->mutable_socket_options()) {
      uint32_t id = options.id();
      expect(image.socket_options.emplace(id, std::move(options)).second, "stasis", -1,
             "options of socket {} again", id);
    }
    image.more->clear_socket_options();
  }
  image.seccomp = dir.maybe_one<SeccompEntry>("seccomp");
}

void read_shared_memory(Checkpoint& image) {
  auto read = [&](uint64_t id) {
    std::string stem = stem_of("pagemap-shmem", id);
    if (!image.shmem.count(id) && image.dir.has(stem))
      image.shmem.emplace(id, read_pagemap(image.dir, stem));
  };
  for (const TaskImage& task : image.tasks)
    for (const VmaEntry& vma : task.mm.vmas())
      if (vma.status() & (vma_anon_shared | vma_sysvipc)) read(vma.shmid());
  for (const MemfdInodeEntry& memfd : image.memfds) read(memfd.shmid());
  for (const SharedSegment& segment : image.segments) read(segment.entry.desc().id());
}

Checkpoint read(ImageDir dir, const Attempt& attempt) {
  Checkpoint image;
  image.dir = std::move(dir);
  if (!image.dir.has("inventory"))
    throw Error("read image", "inventory.img")
        .because("there is none, so this directory holds no checkpoint")
        .hint("check the path; a checkpoint that failed halfway leaves no inventory.img");
  attempt([&] {
    image.inventory = image.dir.one<InventoryEntry>("inventory");
    check_inventory(image.inventory);
  });
  attempt([&] { read_tree(image, attempt); });
  if (image.tasks.empty()) return image;
  attempt([&] {
    expect(!image.root().dead(), stem_of("core", image.root().tree.pid()), -1,
           "the first process is dead");
  });
  attempt([&] { read_mounts(image); });
  attempt([&] { read_files(image); });
  attempt([&] { read_namespaces(image); });
  attempt([&] { read_shared_memory(image); });
  return image;
}

void check(const Checkpoint& image, const Attempt& attempt) {
  attempt([&] { check_confinement(image); });
  attempt([&] { check_namespaces(image); });
  attempt([&] { check_ipc(image); });
  attempt([&] { check_instructions(image); });
  for (const auto& [id, mounts] : image.mounts)
    attempt([&] { check_mounts(stem_of("mountpoints", id), mounts); });
  attempt([&] { check_mount_ids(image.mounts); });
  attempt([&] { check_terminals(image); });
  attempt([&] { check_files(image); });
  for (const TaskImage& task : image.tasks)
    attempt([&] {
      check_task(image, task);
      if (task.dead()) return;
      check_memory(image, task);
      check_descriptors(image, task);
    });
  attempt([&] { check_shared_memory(image); });
}

}  // namespace

uint64_t segment_page_size(const IpcShmEntry& entry) {
  return entry.hugetlb_flag() != 0 ? uint64_t{1} << (entry.hugetlb_flag() >> MAP_HUGE_SHIFT & 63)
                                   : page_size;
}

std::map<uint64_t, uint64_t> segment_sizes(const Checkpoint& image) {
  std::map<uint64_t, uint64_t> sizes;
  for (const SharedSegment& segment : image.segments) {
    const uint64_t page = segment_page_size(segment.entry);
    sizes[segment.entry.desc().id()] = (segment.entry.size() + page - 1) / page * page;
  }
  return sizes;
}

Checkpoint load(ImageDir dir) {
  Attempt strictly = [](const std::function<void()>& step) { step(); };
  Checkpoint image = read(std::move(dir), strictly);
  check(image, strictly);
  return image;
}

Survey survey(ImageDir dir) {
  Survey result;
  Attempt leniently = [&](const std::function<void()>& step) {
    try {
      step();
    } catch (const Error& error) {
      result.complaints.push_back(error);
    }
  };
  result.image = read(std::move(dir), leniently);
  // The checks rely on what reading itself makes sure of.
  if (result.complaints.empty()) check(result.image, leniently);
  return result;
}

Checkpoint load(int dir, const Limits& limits) { return load(ImageDir::open(dir, limits)); }

}  // namespace stasis::image
