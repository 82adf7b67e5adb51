// System V semaphores.
#include <fmt/format.h>
#include <sys/sem.h>
#include <sys/syscall.h>

#include "engine/namespaces/sysv_kinds.h"

namespace stasis::engine::sysv {
namespace {

// Until tasks have what they had of it.
constexpr int open_to_all = 0666;

std::string name_of(uint32_t id) { return fmt::format("semaphore set {}", id); }

}  // namespace

void dump_semaphores(const Dumping& dumping) {
  seminfo info{};
  long last = kernel::must(kernel::call(SYS_semctl, 0, 0, SEM_INFO, &info), "list", "semaphores");
  for (long index = 0; index <= last; ++index) {
    semid_ds set{};
    long found = kernel::call(SYS_semctl, index, 0, SEM_STAT, &set);
    if (found == -EINVAL) continue;  // no such one
    auto id = static_cast<uint32_t>(kernel::must(found, "look at", "a semaphore set"));
    image::IpcSemEntry entry;
    *entry.mutable_desc() = describe(static_cast<int>(id), set.sem_perm, dumping.ids, name_of(id));
    entry.set_nsems(static_cast<uint32_t>(set.sem_nsems));
    std::vector<uint16_t> values(set.sem_nsems);
    kernel::must(kernel::call(SYS_semctl, id, 0, GETALL, values.data()), "read", name_of(id));
    std::string padded(reinterpret_cast<const char*>(values.data()), values.size() * 2);
    padded.resize((padded.size() + 7) / 8 * 8);
    dumping.writer.append(fmt::format("ipcns-sem-{}", dumping.ns_id), entry, padded);
  }
}

void make_semaphores(const image::SemaphoreSet& set, const userns::IdMap& ids) {
  const image::IpcDescEntry& desc = set.entry.desc();
  const std::string name = name_of(desc.id());
  create_with_id(desc, "kernel/sem_next_id", ids, name, [&] {
    return kernel::call(SYS_semget, static_cast<int>(desc.key()), set.values.size(),
                        IPC_CREAT | IPC_EXCL | open_to_all);
  });
  kernel::must(kernel::call(SYS_semctl, desc.id(), 0, SETALL, set.values.data()), "set", name);
}

void finish_semaphores(const image::SemaphoreSet& set, const userns::IdMap& ids) {
  const image::IpcDescEntry& desc = set.entry.desc();
  const std::string name = name_of(desc.id());
  semid_ds now{};
  kernel::must(kernel::call(SYS_semctl, desc.id(), 0, IPC_STAT, &now), "look at", name);
  set_owner(now.sem_perm, desc, ids, name);
  kernel::must(kernel::call(SYS_semctl, desc.id(), 0, IPC_SET, &now), "set the owner of", name);
}

}  // namespace stasis::engine::sysv
