// Address spaces and which of their pages the image has.
#include <sys/mman.h>

#include <algorithm>
#include <bit>

#include "engine/image/check.h"

namespace stasis::image {
namespace {

constexpr uint32_t map_droppable = 0x08;  // of Linux 6.11

constexpr uint32_t known_status = (1u << 18) - 1;
constexpr uint32_t mapping_kinds =
    vma_file_private | vma_file_shared | vma_anon_shared | vma_anon_private;
constexpr uint32_t file_kinds = vma_file_private | vma_file_shared;

bool is_aligned(uint64_t address) { return address % page_size == 0; }

// A range that is listed although it is no mapping in user space.
bool is_aside(const VmaEntry& vma) { return (vma.status() & (vma_guard | vma_vsyscall)) != 0; }

void check_vma(const Checkpoint& image, const std::map<uint64_t, uint64_t>& segments,
               const std::string& stem, int64_t at, const VmaEntry& vma) {
  expect(is_aligned(vma.start()) && is_aligned(vma.end()) && vma.start() < vma.end(), stem, -1,
         "vma {}: {:#x}-{:#x} is no range of pages", at, vma.start(), vma.end());
  expect((vma.status() & ~known_status) == 0, stem, -1, "vma {}: status {:#x} is unknown", at,
         vma.status());
  if (is_aside(vma)) return;
  expect(vma.end() <= user_end, stem, -1, "vma {}: {:#x}-{:#x} is outside user space", at,
         vma.start(), vma.end());
  expect((vma.prot() & ~(PROT_READ | PROT_WRITE | PROT_EXEC)) == 0, stem, -1, "vma {}: prot {:#x}",
         at, vma.prot());
  expect(is_aligned(vma.pgoff()) && vma.pgoff() < INT64_MAX - (vma.end() - vma.start()), stem, -1,
         "vma {}: pgoff {:#x}", at, vma.pgoff());
  uint32_t kind = vma.status() & mapping_kinds;
  expect(std::has_single_bit(kind), stem, -1, "vma {}: status {:#x} has not one kind", at,
         vma.status());
  uint32_t type = vma.flags() & MAP_TYPE;
  bool is_shared = (kind & (vma_file_shared | vma_anon_shared)) != 0;
  bool fits = is_shared
                  ? type == MAP_SHARED || type == MAP_SHARED_VALIDATE
                  : type == MAP_PRIVATE || (type == map_droppable && kind == vma_anon_private);
  expect(fits, stem, -1, "vma {}: flags {:#x} do not fit status {:#x}", at, vma.flags(),
         vma.status());
  if (vma.status() & vma_sysvipc) {
    auto size = segments.find(vma.shmid());
    expect(kind == vma_anon_shared, stem, -1, "vma {}: status {:#x} is no shared memory", at,
           vma.status());
    expect(size != segments.end() && vma.pgoff() + (vma.end() - vma.start()) <= size->second, stem,
           -1, "vma {}: no segment {} of that size", at, vma.shmid());
    expect(vma.pgoff() <= vma.start() && vma.start() - vma.pgoff() <= user_end - size->second, stem,
           -1, "vma {}: pgoff {:#x} is no place of the segment", at, vma.pgoff());
  }
  if (kind & file_kinds)
    expect(vma.shmid() <= UINT32_MAX && image.files.count(static_cast<uint32_t>(vma.shmid())), stem,
           -1, "vma {}: file {} is not in files.img", at, vma.shmid());
}

void check_vmas(const Checkpoint& image, const std::string& stem, const MmEntry& mm) {
  expect(mm.vmas_size() > 0, stem, -1, "has no vma");
  const auto segments = segment_sizes(image);
  uint64_t end = 0;
  for (int i = 0; i < mm.vmas_size(); ++i) {
    const VmaEntry& vma = mm.vmas(i);
    check_vma(image, segments, stem, i, vma);
    if (is_aside(vma)) continue;
    expect(vma.start() >= end, stem, -1,
           "vma {}: {:#x}-{:#x} begins below the end of the one before", i, vma.start(), vma.end());
    end = vma.end();
  }
}

void check_layout(const std::string& stem, const MmEntry& mm) {
  auto range = [&](const char* name, uint64_t start, uint64_t end) {
    expect(start <= end && end <= user_end, stem, -1, "{}: {:#x}-{:#x}", name, start, end);
  };
  range("code", mm.mm_start_code(), mm.mm_end_code());
  range("data", mm.mm_start_data(), mm.mm_end_data());
  range("brk", mm.mm_start_brk(), mm.mm_brk());
  range("arguments", mm.mm_arg_start(), mm.mm_arg_end());
  range("environment", mm.mm_env_start(), mm.mm_env_end());
  range("stack", 0, mm.mm_start_stack());
  expect(mm.mm_saved_auxv_size() % 2 == 0 && mm.mm_saved_auxv_size() <= 128, stem, -1,
         "auxv of {} words", mm.mm_saved_auxv_size());
}

// Pages lie one after the other in the pages image, which must be long enough.
void check_pages(const Checkpoint& image, const std::string& stem,
                 const std::vector<PagemapEntry>& entries, uint32_t pages_id) {
  uint64_t end = 0, present = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    const PagemapEntry& entry = entries[i];
    auto at = static_cast<int64_t>(i) + 1;  // after the head
    uint64_t pages = page_count(entry);
    expect(is_aligned(entry.vaddr()) && entry.vaddr() >= end && entry.vaddr() < user_end, stem, at,
           "vaddr {:#x} is not above the one before", entry.vaddr());
    expect(pages > 0 && pages <= (user_end - entry.vaddr()) / page_size, stem, at, "{} pages",
           pages);
    bool in_parent = entry.in_parent() || (entry.flags() & page_in_parent) != 0;
    expect(!in_parent, stem, at,
           "its pages are in a parent checkpoint; incremental checkpoints are not supported");
    expect(is_present(entry), stem, at, "its pages are on a page server (lazy-pages)");
    end = entry.vaddr() + pages * page_size;
    present += pages;
  }
  if (present == 0) return;
  uint64_t size = image.dir.size(stem_of("pages", pages_id));
  expect(present <= size / page_size, stem_of("pages", pages_id), -1,
         "{} bytes; {}.img says it has {} pages", size, stem, present);
}

// Every page must have a mapping to go to; entries may span adjacent ones.
void check_coverage(const std::string& stem, const TaskImage& task) {
  const auto& vmas = task.mm.vmas();
  auto vma = vmas.begin();
  for (size_t i = 0; i < task.pagemap.size(); ++i) {
    uint64_t at = task.pagemap[i].vaddr();
    uint64_t end = at + page_count(task.pagemap[i]) * page_size;
    while (at < end) {
      while (vma != vmas.end() && (is_aside(*vma) || vma->end() <= at)) ++vma;
      expect(vma != vmas.end() && vma->start() <= at, stem, static_cast<int64_t>(i) + 1,
             "page {:#x} is in no vma", at);
      at = std::min(end, vma->end());
    }
  }
}

}  // namespace

void check_memory(const Checkpoint& image, const TaskImage& task) {
  std::string stem = stem_of("mm", task.tree.pid());
  check_vmas(image, stem, task.mm);
  check_layout(stem, task.mm);
  auto exe = image.files.find(task.mm.exe_file_id());
  expect(exe != image.files.end() && (exe->second.type() == REG || exe->second.type() == MEMFD),
         stem, -1, "exe_file_id {} is no file in files.img", task.mm.exe_file_id());
  stem = stem_of("pagemap", task.tree.pid());
  check_pages(image, stem, task.pagemap, task.pages_id);
  check_coverage(stem, task);
}

void check_shared_memory(const Checkpoint& image) {
  for (const auto& [id, pagemap] : image.shmem)
    check_pages(image, stem_of("pagemap-shmem", id), pagemap.entries, pagemap.pages_id);
  for (const auto& [id, size] : segment_sizes(image)) {
    auto content = image.shmem.find(id);
    if (content == image.shmem.end() || content->second.entries.empty()) continue;
    const PagemapEntry& last = content->second.entries.back();
    expect(last.vaddr() + page_count(last) * page_size <= size, stem_of("pagemap-shmem", id), -1,
           "pages behind the end of the segment");
  }
}

}  // namespace stasis::image
