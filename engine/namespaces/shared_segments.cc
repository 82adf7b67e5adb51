// System V shared memory.
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/statfs.h>
#include <sys/syscall.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "engine/image/format.h"
#include "engine/memory/pages.h"
#include "engine/namespaces/sysv_kinds.h"
#include "kernel/fs.h"

namespace stasis::engine::sysv {
namespace {

// Bits of the mode, of linux/shm.h; sys/shm.h has them for kernel builds only.
constexpr uint32_t to_be_removed = 01000, locked = 02000;
constexpr uint32_t open_to_all = 0777;

std::string name_of(uint64_t id) { return fmt::format("shared memory segment {}", id); }

void for_each_segment(const std::function<void(int id, const shmid_ds& segment)>& visit) {
  shm_info info{};
  long last = kernel::must(kernel::call(SYS_shmctl, 0, SHM_INFO, &info), "list", "shared memory");
  for (long index = 0; index <= last; ++index) {
    shmid_ds segment{};
    long id = kernel::call(SYS_shmctl, index, SHM_STAT, &segment);
    if (id == -EINVAL || id == -EIDRM) continue;  // no such one
    visit(static_cast<int>(kernel::must(id, "look at", "a shared memory segment")), segment);
  }
}

constexpr uint64_t any_page_size[] = {page_size, 2 << 20, 1 << 30};

// Attached by us while it lives.
class Attached {
 public:
  Attached(int id, bool for_writing)
      : at_(static_cast<uint64_t>(
            kernel::must(kernel::call(SYS_shmat, id, nullptr, for_writing ? 0 : SHM_RDONLY),
                         "attach", name_of(static_cast<uint64_t>(id))))) {}
  Attached(const Attached&) = delete;
  Attached& operator=(const Attached&) = delete;
  ~Attached() { kernel::call(SYS_shmdt, at_); }

  uint64_t start() const { return at_; }

  // Its memory as a file, which needs no attachment any more.
  UniqueFd open(uint64_t size, int flags) const {
    for (uint64_t page : any_page_size) {
      const uint64_t end = at_ + (size + page - 1) / page * page;
      std::string link = fmt::format("/proc/self/map_files/{:x}-{:x}", at_, end);
      long fd = kernel::call(SYS_openat, AT_FDCWD, link.c_str(), flags | O_CLOEXEC);
      if (fd != -ENOENT) return UniqueFd(static_cast<int>(kernel::must(fd, "open", link)));
    }
    throw Error("open", "shared memory").because("its mapping can't be found");
  }

 private:
  uint64_t at_;
};

// How shmget is told of huge pages; 0: none.
uint32_t huge_page_flags(int memory) {
  struct statfs about{};
  kernel::must(kernel::call(SYS_fstatfs, memory, &about), "look at", "shared memory");
  if (about.f_type != HUGETLBFS_MAGIC) return 0;
  auto size = static_cast<uint64_t>(about.f_bsize);
  return SHM_HUGETLB | static_cast<uint32_t>(std::countr_zero(size)) << MAP_HUGE_SHIFT;
}

bool is_forced() { return kernel::read_file("/proc/sys/kernel/shm_rmid_forced").starts_with("1"); }

// Why the segment can't be carried: once we had attached one that nobody attaches,
// letting go of it would remove it where that is forced.
std::string trouble_with(int id, const shmid_ds& segment) {
  if (segment.shm_nattch > 0 || !is_forced()) return {};
  return name_of(static_cast<uint64_t>(id)) +
         " that nobody has attached, while kernel.shm_rmid_forced is set";
}

void check_attachments(const Dumping& dumping, int id, uint64_t count) {
  auto found = dumping.attached.find(static_cast<uint64_t>(id));
  uint64_t own = found == dumping.attached.end() ? 0 : found->second;
  if (own == count) return;
  throw Error("dump", name_of(static_cast<uint64_t>(id)))
      .because(
          fmt::format("it is attached {} times, {} times by the container's processes", count, own))
      .hint("end what else uses the container's shared memory");
}

}  // namespace

std::vector<std::string> segment_obstacles() {
  std::vector<std::string> found;
  for_each_segment([&](int id, const shmid_ds& segment) {
    if (auto trouble = trouble_with(id, segment); !trouble.empty())
      found.push_back(std::move(trouble));
  });
  return found;
}

void dump_segments(const Dumping& dumping) {
  std::map<uint64_t, uint64_t> unknown = dumping.attached;
  for_each_segment([&](int id, const shmid_ds& segment) {
    const std::string name = name_of(static_cast<uint64_t>(id));
    if (auto trouble = trouble_with(id, segment); !trouble.empty())
      throw Error("dump", "the ipc namespace").because("it holds " + trouble);
    check_attachments(dumping, id, segment.shm_nattch);
    unknown.erase(static_cast<uint64_t>(id));
    image::IpcShmEntry entry;
    *entry.mutable_desc() = describe(id, segment.shm_perm, dumping.ids, name);
    entry.set_size(segment.shm_segsz);
    entry.set_in_pagemaps(true);
    UniqueFd memory = Attached(id, false).open(segment.shm_segsz, O_RDONLY);
    if (uint32_t huge = huge_page_flags(memory.get())) entry.set_hugetlb_flag(huge);
    dumping.writer.append(fmt::format("ipcns-shm-{}", dumping.ns_id), entry);
    dumping.store_memory(static_cast<uint64_t>(id), std::move(memory));
  });
  if (!unknown.empty())
    throw Error("dump", name_of(unknown.begin()->first))
        .because("a process has it attached, but it belongs to another ipc namespace")
        .hint("let the program attach it after it is in the container");
}

void make_segment(const image::SharedSegment& segment, const image::Checkpoint& checkpoint,
                  const userns::IdMap& ids, unsigned workers) {
  const image::IpcDescEntry& desc = segment.entry.desc();
  const std::string name = name_of(desc.id());
  constexpr uint32_t huge_flags = SHM_HUGETLB | uint32_t{MAP_HUGE_MASK} << MAP_HUGE_SHIFT;
  const uint32_t huge = segment.entry.hugetlb_flag() & huge_flags;
  // Whoever had it attached may have been allowed to then, and not now.
  create_with_id(desc, "kernel/shm_next_id", ids, name, [&] {
    return kernel::call(SYS_shmget, static_cast<int>(desc.key()), segment.entry.size(),
                        IPC_CREAT | IPC_EXCL | open_to_all | huge);
  });
  const Attached attached(static_cast<int>(desc.id()), true);
  if (!segment.entry.in_pagemaps()) {
    memcpy(reinterpret_cast<void*>(attached.start()), segment.bytes.data(),
           std::min<uint64_t>(segment.bytes.size(), segment.entry.size()));
    return;
  }
  auto content = checkpoint.shmem.find(desc.id());
  if (content == checkpoint.shmem.end()) return;
  UniqueFd pages = checkpoint.dir.raw(fmt::format("pages-{}", content->second.pages_id));
  PageCopier copier(workers);
  fill_mapped(content->second, attached.start(), pages.get(), copier);
  copier.fill([](uint64_t) {});
}

void finish_segment(const image::SharedSegment& segment, const userns::IdMap& ids) {
  const image::IpcDescEntry& desc = segment.entry.desc();
  const std::string name = name_of(desc.id());
  shmid_ds now{};
  kernel::must(kernel::call(SYS_shmctl, desc.id(), IPC_STAT, &now), "look at", name);
  set_owner(now.shm_perm, desc, ids, name);
  kernel::must(kernel::call(SYS_shmctl, desc.id(), IPC_SET, &now), "set the owner of", name);
  if (desc.mode() & locked)
    kernel::must(kernel::call(SYS_shmctl, desc.id(), SHM_LOCK, nullptr), "lock", name);
  if (desc.mode() & to_be_removed)
    kernel::must(kernel::call(SYS_shmctl, desc.id(), IPC_RMID, nullptr), "remove", name);
}

}  // namespace stasis::engine::sysv
