#include "engine/memory/shared_areas.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>

#include "engine/image/format.h"
#include "kernel/fs.h"

namespace stasis::engine {

namespace {

// CRIU 4 writes shared anonymous memory down as a memfd of this name.
constexpr const char* anonymous_memfd = "/dev/zero";

}  // namespace

SharedAreas::~SharedAreas() {
  for (const auto& [start, size] : huge_) kernel::call(SYS_munmap, start, size);
}

std::optional<uint64_t> SharedAreas::id_of(const image::VmaEntry& vma) const {
  if (vma.status() & image::vma_sysvipc) return std::nullopt;  // attached, not mapped
  if (vma.status() & image::vma_anon_shared) return vma.shmid();
  if (!(vma.status() & image::vma_memfd)) return std::nullopt;
  auto file = checkpoint_.files.find(static_cast<uint32_t>(vma.shmid()));
  if (file == checkpoint_.files.end()) return std::nullopt;
  for (const image::MemfdInodeEntry& inode : checkpoint_.memfds)
    if (inode.inode_id() == file->second.memfd().inode_id() && inode.name() == anonymous_memfd)
      return inode.shmid();
  return std::nullopt;
}

// Its size, and the mapping flags where it is of huge pages.
std::pair<uint64_t, uint32_t> SharedAreas::size_of(uint64_t id) const {
  uint64_t size = 0;
  uint32_t huge = 0;
  for (const image::TaskImage& task : checkpoint_.tasks)
    for (const image::VmaEntry& vma : task.mm.vmas())
      if (id_of(vma) == id) {
        size = std::max(size, vma.pgoff() + (vma.end() - vma.start()));
        constexpr uint32_t flags = MAP_HUGETLB | uint32_t{MAP_HUGE_MASK} << MAP_HUGE_SHIFT;
        if (vma.flags() & MAP_HUGETLB) huge = vma.flags() & flags;
      }
  return {size, huge};
}

int SharedAreas::get(uint64_t id) {
  UniqueFd& area = areas_[id];
  if (area) return area.get();
  // The kernel makes the object; its map_files link gives a descriptor that
  // other tasks can map: it stays the anonymous memory that it is.
  auto [size, huge] = size_of(id);
  long at = kernel::must(kernel::call(SYS_mmap, 0, size, PROT_READ | PROT_WRITE,
                                      MAP_SHARED | MAP_ANONYMOUS | huge, -1, 0),
                         huge ? "make shared memory of huge pages" : "make shared memory");
  uint64_t start = static_cast<uint64_t>(at);
  area = kernel::open(fmt::format("/proc/self/map_files/{:x}-{:x}", start, start + size), O_RDWR);
  if (huge)
    huge_.emplace_back(start, size);  // until it is filled
  else
    kernel::call(SYS_munmap, start, size);
  auto image = checkpoint_.shmem.find(id);
  if (image != checkpoint_.shmem.end()) {
    pages_.push_back(checkpoint_.dir.raw(fmt::format("pages-{}", image->second.pages_id)));
    if (huge)
      fill_mapped(image->second, start, pages_.back().get(), copier_);
    else
      fill_shared(image->second, area.get(), size, pages_.back().get(), copier_);
  }
  return area.get();
}

}  // namespace stasis::engine
