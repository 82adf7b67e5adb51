#include "engine/namespaces/sysv.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <thread>

#include "engine/namespaces/ipc.h"
#include "engine/namespaces/semaphore_undo.h"
#include "engine/scratch_test.h"
#include "kernel/fs.h"

using namespace stasis;
using namespace stasis::engine;
using Catch::Contains;

namespace {

bool root() { return geteuid() == 0; }

// In a thread with namespaces of its own.
template <typename Action>
void in_fresh(int flags, Action action) {
  std::exception_ptr failure;
  std::thread([&] {
    try {
      kernel::must(kernel::call(SYS_unshare, flags), "unshare");
      action();
    } catch (...) {
      failure = std::current_exception();
    }
  }).join();
  if (failure) std::rethrow_exception(failure);
}

void describe(image::IpcDescEntry* desc, uint32_t id, uint32_t key, uint32_t mode) {
  desc->set_id(id);
  desc->set_key(key);
  desc->set_mode(mode);
  desc->set_uid(11);
  desc->set_gid(12);
  desc->set_cuid(13);
  desc->set_cgid(14);
}

image::Checkpoint checkpoint_with_objects() {
  image::Checkpoint checkpoint;
  checkpoint.tasks.resize(1);
  image::SharedSegment segment;
  describe(segment.entry.mutable_desc(), 70000, 0x77, 0640);
  segment.entry.set_size(5000);
  segment.bytes.assign(5000, 's');
  checkpoint.segments.push_back(segment);
  image::MessageQueue queue;
  describe(queue.entry.mutable_desc(), 3, 0x78, 0606);
  queue.entry.set_qbytes(50);
  queue.entry.set_qnum(2);
  queue.messages = {{7, std::string(8000, 'm')}, {4, ""}};
  checkpoint.queues.push_back(queue);
  image::SemaphoreSet set;
  describe(set.entry.mutable_desc(), 32768 * 5 + 9, 0, 0600);
  set.entry.set_nsems(3);
  set.values = {0, 32767, 9};
  checkpoint.semaphores.push_back(set);
  checkpoint.more.emplace();
  image::PosixQueueEntry& posix = *checkpoint.more->add_posix_queues();
  posix.set_name("night");
  posix.set_mode(0640);
  posix.set_uid(11);
  posix.set_gid(12);
  posix.set_most_messages(77);  // more than the usual limit
  posix.set_message_size(9);
  for (const auto& [priority, text] :
       {std::pair(9U, "nine long"), {3U, "b"}, {3U, ""}, {3U, "a"}}) {
    image::PosixMessageEntry& message = *posix.add_messages();
    message.set_priority(priority);
    message.set_data(text);
  }
  return checkpoint;
}

// What the code in a task does with a batch.
void run_here(SyscallBatch& batch) {
  std::vector<uint64_t> memory((batch.size() + 7) / 8);
  std::span<uint8_t> bytes(reinterpret_cast<uint8_t*>(memory.data()), batch.size());
  batch.encode(reinterpret_cast<uint64_t>(memory.data()), bytes);
  auto* table = reinterpret_cast<SyscallBatch::Entry*>(memory.data());
  for (size_t i = 0; i < batch.calls(); ++i) {
    const uint64_t* a = table[i].args;
    table[i].result = kernel::raw_call(
        table[i].nr, static_cast<long>(a[0]), static_cast<long>(a[1]), static_cast<long>(a[2]),
        static_cast<long>(a[3]), static_cast<long>(a[4]), static_cast<long>(a[5]));
  }
  batch.decode(bytes, "the test");
}

}  // namespace

TEST_CASE("System V objects come back with ids, owners and content, and are read again") {
  if (!root()) return;
  image::Checkpoint checkpoint = checkpoint_with_objects();
  in_fresh(CLONE_NEWIPC, [&] {
    const image::IpcVarEntry limits = ipc::read();
    sysv::make(checkpoint, limits, 1);
    sysv::finish(checkpoint, limits);
    CHECK(ipc::read().SerializeAsString() == limits.SerializeAsString());
    shmid_ds segment{};
    REQUIRE(shmctl(70000, IPC_STAT, &segment) == 0);
    CHECK(segment.shm_perm.__key == 0x77);
    CHECK(segment.shm_perm.mode == 0640);
    CHECK(segment.shm_perm.uid == 11);
    CHECK(segment.shm_perm.cuid == 13);
    CHECK(segment.shm_perm.cgid == 14);
    auto* memory = static_cast<char*>(shmat(70000, nullptr, SHM_RDONLY));
    CHECK(memory[4999] == 's');
    CHECK(memory[5000] == 0);
    shmdt(memory);

    Scratch directory;
    image::ImageWriter writer(directory.fd());
    std::map<uint64_t, UniqueFd> memories;
    const std::map<uint64_t, uint64_t> attached;
    std::function<void(uint64_t, UniqueFd)> keep = [&](uint64_t id, UniqueFd fd) {
      memories[id] = std::move(fd);
    };
    sysv::PosixQueues posix;
    sysv::dump({userns::IdMap(), writer, 5, attached, keep, posix});
    CHECK(memories.count(70000) == 1);
    REQUIRE(posix.entries.size() == 1);
    CHECK(posix.entries[0].SerializeAsString() ==
          checkpoint.more->posix_queues(0).SerializeAsString());
    image::InventoryEntry inventory;
    inventory.set_img_version(image::image_version);
    writer.flush();
    writer.publish(inventory);
    auto dir = image::ImageDir::open(directory.fd());
    image::IpcShmEntry shm = dir.one<image::IpcShmEntry>("ipcns-shm-5");
    CHECK(shm.desc().SerializeAsString() ==
          checkpoint.segments[0].entry.desc().SerializeAsString());
    CHECK(shm.size() == 5000);
    image::Reader queues = dir.read("ipcns-msg-5");
    image::IpcMsgEntry queue;
    image::IpcMsg message;
    REQUIRE(queues.next(queue));
    CHECK(queue.SerializeAsString() == checkpoint.queues[0].entry.SerializeAsString());
    REQUIRE(queues.next(message));
    CHECK(message.mtype() == 7);
    CHECK(queues.payload(8000) == std::string(8000, 'm'));
    REQUIRE(queues.next(message));
    CHECK(message.msize() == 0);
    image::Reader sets = dir.read("ipcns-sem-5");
    image::IpcSemEntry set;
    REQUIRE(sets.next(set));
    CHECK(set.SerializeAsString() == checkpoint.semaphores[0].entry.SerializeAsString());
    CHECK(sets.payload(8) == std::string_view("\0\0\xff\x7f\x09\0\0\0", 8));
  });
}

TEST_CASE("a segment that someone else has attached, or whose id is taken, is told") {
  if (!root()) return;
  in_fresh(CLONE_NEWIPC, [&] {
    int id = shmget(IPC_PRIVATE, 4096, 0600);
    void* memory = shmat(id, nullptr, 0);
    Scratch directory;
    image::ImageWriter writer(directory.fd());
    const std::map<uint64_t, uint64_t> attached;
    std::function<void(uint64_t, UniqueFd)> keep = [](uint64_t, UniqueFd) {};
    sysv::PosixQueues posix;
    CHECK_THROWS_WITH(sysv::dump({userns::IdMap(), writer, 5, attached, keep, posix}),
                      Contains("attached 1 times, 0 times by the container's"));
    shmdt(memory);
    kernel::write_file("/proc/sys/kernel/shm_rmid_forced", "1");
    // Looking at it would have removed it.
    if (shmctl(id, IPC_STAT, std::make_unique<shmid_ds>().get()) == 0)
      CHECK(sysv::obstacles().size() == 1);
  });
  in_fresh(CLONE_NEWIPC, [&] {
    image::Checkpoint checkpoint = checkpoint_with_objects();
    checkpoint.queues[0].entry.mutable_desc()->set_key(0);
    auto second = checkpoint.queues[0];
    checkpoint.queues.push_back(second);
    CHECK_THROWS_WITH(sysv::make(checkpoint, ipc::read(), 1), Contains("its id is taken"));
  });
}

TEST_CASE("what is to be undone of semaphores is found without changing them") {
  if (!root()) return;
  image::Checkpoint checkpoint;
  checkpoint.tasks.resize(1);
  in_fresh(CLONE_NEWIPC, [&] {
    int id = semget(IPC_PRIVATE, 5, 0600);
    unsigned short values[] = {10, 32767, 0, 5, 16384};
    REQUIRE(semctl(id, 0, SETALL, values) == 0);
    sembuf operations[] = {
        {0, -4, SEM_UNDO}, {1, -32767, SEM_UNDO}, {2, 32767, SEM_UNDO}, {4, 1, SEM_UNDO}};
    REQUIRE(semop(id, operations, 4) == 0);
    auto sets = sysv::semaphore_sets();
    REQUIRE(sets.size() == 1);
    auto found = sysv::read_undo(sets, 42, run_here);
    REQUIRE(found.size() == 4);
    CHECK(found[0].value() == 4);
    CHECK(found[1].value() == 32767);
    CHECK(found[2].value() == -32767);
    CHECK(found[3].number() == 4);
    CHECK(found[3].value() == -1);
    CHECK(sysv::semaphore_sets()[0].values == sets[0].values);

    image::SemaphoreSet set;
    set.entry.mutable_desc()->set_id(sets[0].id);
    set.values = sets[0].values;
    checkpoint.semaphores.push_back(set);
    checkpoint.more.emplace();
    for (const auto& entry : found) *checkpoint.more->add_semaphore_undo() = entry;
  });
  in_fresh(CLONE_NEWIPC, [&] {
    const auto& set = checkpoint.semaphores[0];
    int id = semget(IPC_PRIVATE, 5, 0600);
    REQUIRE(static_cast<uint32_t>(id) == set.entry.desc().id());
    REQUIRE(semctl(id, 0, SETALL, set.values.data()) == 0);
    SyscallBatch batch;
    sysv::restore_undo(checkpoint, 42, batch);
    run_here(batch);
    auto now = sysv::semaphore_sets();
    CHECK(now[0].values == set.values);
    auto found = sysv::read_undo(now, 42, run_here);
    REQUIRE(found.size() == 4);
    for (size_t i = 0; i < found.size(); ++i)
      CHECK(found[i].value() == checkpoint.more->semaphore_undo(static_cast<int>(i)).value());
  });
}
