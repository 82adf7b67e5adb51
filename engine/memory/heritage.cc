#include "engine/memory/heritage.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>

#include "engine/image/format.h"
#include "engine/memory/address_space.h"
#include "engine/memory/vma.h"

namespace stasis::engine {

namespace {

using image::MmEntry;
using image::VmaEntry;

bool is_private(const VmaEntry& vma) {
  return has_own_pages(vma) && !is_kernel_made(vma) && !(vma.status() & image::vma_guard);
}

// One mapping that has been forked since, though one of them may have grown.
bool same_mapping(const VmaEntry& a, const VmaEntry& b) {
  return a.status() == b.status() && a.flags() == b.flags() && a.prot() == b.prot() &&
         a.shmid() == b.shmid() && a.fdflags() == b.fdflags() &&
         ((a.status() & image::vma_anon_private) || a.pgoff() - a.start() == b.pgoff() - b.start());
}

// The end of what `to` has of itself in `from`; 0: nothing, or not its beginning.
uint64_t common_end(const VmaEntry& from, const VmaEntry& to) {
  if (!is_private(from) || !is_private(to) || !same_mapping(from, to)) return 0;
  if (from.start() > to.start() || from.end() <= to.start()) return 0;
  if (to.end() <= from.end()) return to.end();
  // A heap that has grown: mremap() goes on where the mapping begins.
  return from.start() == to.start() ? from.end() : 0;
}

std::vector<PageRange> pages_of(const image::TaskImage& task) {
  std::vector<PageRange> pages;
  pages.reserve(task.pagemap.size());
  for (const image::PagemapEntry& entry : task.pagemap)
    pages.push_back({entry.vaddr(), entry.vaddr() + image::page_count(entry) * page_size});
  return pages;
}

// The kernel's own mappings, if both tasks have the same ones.
std::vector<PageRange> common_vdso(const MmEntry& from, const MmEntry& to) {
  auto ranges = [](const MmEntry& mm) {
    std::vector<PageRange> found;
    for (const VmaEntry& vma : mm.vmas())
      if (vma.status() & (image::vma_vdso | image::vma_vvar))
        found.push_back({vma.start(), vma.end()});
    return found;
  };
  std::vector<PageRange> here = ranges(from);
  return here == ranges(to) ? here : std::vector<PageRange>();
}

bool meets(const std::vector<PageRange>& ranges, const PageRange& other) {
  return std::any_of(ranges.begin(), ranges.end(), [&](const PageRange& range) {
    return range.start < other.end && other.start < range.end;
  });
}

void unmap_all_but(std::vector<PageRange> kept, SyscallBatch& batch) {
  std::sort(kept.begin(), kept.end(),
            [](const PageRange& a, const PageRange& b) { return a.start < b.start; });
  for (const PageRange& gap : without({{0, task_size}}, kept))
    batch.must("empty the memory of", SYS_munmap, gap.start, gap.end - gap.start);
}

}  // namespace

bool same_program(const MmEntry& a, const MmEntry& b) {
  return a.exe_file_id() == b.exe_file_id() && a.mm_start_code() == b.mm_start_code() &&
         a.mm_end_code() == b.mm_end_code() && a.mm_start_stack() == b.mm_start_stack();
}

Heritage take_heritage(const image::TaskImage& from, const image::TaskImage& to, PageRange spare,
                       const std::vector<PageRange>& needed, SyscallBatch& batch) {
  Heritage heritage;
  std::vector<PageRange> areas;
  auto candidate = from.mm.vmas().begin();
  for (size_t i = 0; i < static_cast<size_t>(to.mm.vmas_size()); ++i) {
    const VmaEntry& vma = to.mm.vmas(static_cast<int>(i));
    while (candidate != from.mm.vmas().end() && candidate->end() <= vma.start()) ++candidate;
    if (candidate == from.mm.vmas().end()) break;
    if (meets(needed, {vma.start(), vma.end()})) continue;
    if (uint64_t end = common_end(*candidate, vma)) {
      heritage.kept[i] = end;
      areas.push_back({vma.start(), end});
    }
  }
  std::vector<PageRange> vdso = common_vdso(from.mm, to.mm);
  if (std::any_of(vdso.begin(), vdso.end(),
                  [&](const PageRange& range) { return meets(needed, range); }))
    vdso.clear();
  heritage.vdso = !vdso.empty();

  std::vector<PageRange> kept = areas;
  kept.insert(kept.end(), vdso.begin(), vdso.end());
  kept.push_back(spare);
  unmap_all_but(std::move(kept), batch);
  for (auto [index, end] : heritage.kept) {
    const VmaEntry& vma = to.mm.vmas(static_cast<int>(index));
    if (end < vma.end())
      batch.must("extend the memory of", SYS_mremap, vma.start(), end - vma.start(),
                 vma.end() - vma.start(), 0, 0);
  }
  // Pages that one of the two has got rid of since.
  std::vector<PageRange> wanted = pages_of(to);
  heritage.pages = intersect(pages_of(from), areas);
  for (const PageRange& stale : without(heritage.pages, wanted))
    batch.must("empty the memory of", SYS_madvise, stale.start, stale.end - stale.start,
               MADV_DONTNEED);
  heritage.pages = intersect(heritage.pages, wanted);
  return heritage;
}

}  // namespace stasis::engine
