#include "engine/memory/pages.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#include "engine/memory/vma.h"
#include "kernel/fs.h"

namespace stasis::engine {

namespace {

// PAGEMAP_SCAN of linux/fs.h, which Debian 12's headers don't have yet.
struct PageRegion {
  uint64_t start, end, categories;
};
struct PageScan {
  uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
constexpr unsigned long pagemap_scan = _IOWR('f', 16, PageScan);
enum Category : uint64_t {
  is_file = 1 << 2,
  is_present = 1 << 3,
  is_swapped = 1 << 4,
  is_zero_page = 1 << 5,
};

// Bits of a pagemap word (Documentation/admin-guide/mm/pagemap.rst).
enum PagemapBit : uint64_t {
  word_present = 1ull << 63,
  word_swapped = 1ull << 62,
  word_file = 1ull << 61,
  word_exclusive = 1ull << 56,
};

constexpr uint64_t buffer_size = 1 << 20;
constexpr uint64_t worth_a_thread = 8 << 20;

void append(std::vector<PageRange>* ranges, uint64_t start, uint64_t end) {
  if (!ranges->empty() && ranges->back().end == start)
    ranges->back().end = end;
  else
    ranges->push_back({start, end});
}

std::vector<PageRange> united(std::vector<PageRange> ranges, const std::vector<PageRange>& more) {
  ranges.insert(ranges.end(), more.begin(), more.end());
  std::sort(ranges.begin(), ranges.end(),
            [](const PageRange& a, const PageRange& b) { return a.start < b.start; });
  std::vector<PageRange> all;
  for (const PageRange& range : ranges)
    if (!all.empty() && range.start <= all.back().end)
      all.back().end = std::max(all.back().end, range.end);
    else
      all.push_back(range);
  return all;
}

// Present and swapped pages of none of the categories `not_of`.
bool scan(int pagemap, uint64_t start, uint64_t end, uint64_t not_of,
          std::vector<PageRange>* found) {
  std::array<PageRegion, 512> regions;
  while (start < end) {
    PageScan arguments{};
    arguments.size = sizeof arguments;
    arguments.start = start;
    arguments.end = end;
    arguments.vec = reinterpret_cast<uint64_t>(regions.data());
    arguments.vec_len = regions.size();
    arguments.category_inverted = not_of;
    arguments.category_mask = not_of;
    arguments.category_anyof_mask = is_present | is_swapped;
    arguments.return_mask = is_present | is_swapped;
    long n = kernel::call(SYS_ioctl, pagemap, pagemap_scan, &arguments);
    if (n == -ENOTTY || n == -EINVAL) return false;
    kernel::must(n, "scan the page map");
    for (long i = 0; i < n; ++i)
      append(found, regions[static_cast<size_t>(i)].start, regions[static_cast<size_t>(i)].end);
    start = arguments.walk_end;
  }
  return true;
}

// Calls visit(address, word) for every page of [start, end).
template <typename Visit>
void for_each_word(int pagemap, uint64_t start, uint64_t end, Visit visit) {
  std::array<uint64_t, 4096> words;
  for (uint64_t at = start; at < end;) {
    uint64_t count = std::min<uint64_t>(words.size(), (end - at) / page_size);
    long n = kernel::must(
        kernel::call(SYS_pread64, pagemap, words.data(), count * 8, at / page_size * 8),
        "read the page map");
    if (n == 0) return;  // past the end of the address space
    for (long i = 0; i < n / 8; ++i, at += page_size) visit(at, words[static_cast<size_t>(i)]);
  }
}

std::vector<PageRange> dumped_areas(const image::MmEntry& mm, uint32_t status) {
  std::vector<PageRange> areas;
  for (const image::VmaEntry& vma : mm.vmas())
    if (has_own_pages(vma) && !is_kernel_made(vma) && (vma.status() & status))
      append(&areas, vma.start(), vma.end());
  return areas;
}

[[noreturn]] void short_copy(const PageCopier::Piece& piece, const char* what) {
  throw Error(what, fmt::format("memory at {:#x} of process {}", piece.address, piece.pid))
      .because("short copy");
}

void check(long n, const PageCopier::Piece& piece, const char* what) {
  kernel::must(n, what, fmt::format("memory at {:#x} of process {}", piece.address, piece.pid));
  if (static_cast<uint64_t>(n) != piece.size) short_copy(piece, what);
}

long transfer(const PageCopier::Piece& piece, void* buffer, bool write) {
  if (piece.through == PageCopier::Through::file)
    return kernel::call(write ? SYS_pwrite64 : SYS_pread64, piece.fd, buffer, piece.size,
                        piece.address);
  iovec local{buffer, piece.size}, remote{reinterpret_cast<void*>(piece.address), piece.size};
  return kernel::call(write ? SYS_process_vm_writev : SYS_process_vm_readv, piece.pid, &local, 1,
                      &remote, 1, 0);
}

void save_piece(const PageCopier::Piece& piece, void* buffer) {
  check(transfer(piece, buffer, false), piece, "read");
  kernel::pwrite_all(piece.image, buffer, piece.size, static_cast<off_t>(piece.offset),
                     "the page image");
}

// Reading through /proc/PID/mem leaves pages shared.
void fill_differences(const PageCopier::Piece& piece, char* wanted) {
  auto found = std::make_unique_for_overwrite<char[]>(piece.size);
  check(kernel::call(SYS_pread64, piece.fd, found.get(), piece.size, piece.address), piece, "read");
  for (uint64_t at = 0; at < piece.size;) {
    auto differs = [&](uint64_t page) {
      return page < piece.size && memcmp(wanted + page, found.get() + page, page_size) != 0;
    };
    uint64_t end = at;
    while (differs(end)) end += page_size;
    if (end == at) {
      at += page_size;
      continue;
    }
    PageCopier::Piece part = piece;
    part.through = PageCopier::Through::process_vm;
    part.address += at;
    part.size = end - at;
    check(transfer(part, wanted + at, true), part, "fill");
    at = end;
  }
}

void fill_piece(const PageCopier::Piece& piece, void* buffer) {
  check(kernel::call(SYS_pread64, piece.image, buffer, piece.size, piece.offset), piece,
        "read the image of");
  if (piece.through == PageCopier::Through::differences)
    return fill_differences(piece, static_cast<char*>(buffer));
  check(transfer(piece, buffer, true), piece, "fill");
}

}  // namespace

std::vector<PageRange> own_pages(int pagemap, const std::vector<PageRange>& areas, bool use_scan) {
  std::vector<PageRange> found;
  if (areas.empty()) return found;
  // A scan passes over holes at once; the words of a hole are all to be read.
  if (use_scan &&
      scan(pagemap, areas.front().start, areas.back().end, is_file | is_zero_page, &found))
    return intersect(found, areas);
  found.clear();
  for (const PageRange& area : areas)
    for_each_word(pagemap, area.start, area.end, [&](uint64_t address, uint64_t word) {
      if ((word & (word_present | word_swapped)) && !(word & word_file))
        append(&found, address, address + page_size);
    });
  return found;
}

std::vector<PageRange> own_pages_of_kinds(int pagemap, const std::vector<PageRange>& anonymous,
                                          const std::vector<PageRange>& of_files) {
  std::vector<PageRange> found;
  for (const PageRange& area : of_files) {
    std::vector<PageRange> own = own_pages(pagemap, {area});
    found.insert(found.end(), own.begin(), own.end());
  }
  std::vector<PageRange> others;
  // Whether a page is a file's is only known from the page itself; not having to
  // look there makes this three times as fast.
  if (!anonymous.empty() &&
      !scan(pagemap, anonymous.front().start, anonymous.back().end, is_zero_page, &others))
    others = own_pages(pagemap, anonymous, false);
  return united(std::move(found), intersect(others, anonymous));
}

void split_by_sharing(int pagemap, const std::vector<PageRange>& ranges,
                      std::vector<PageRange>* exclusive, std::vector<PageRange>* shared) {
  for (const PageRange& range : ranges)
    for_each_word(pagemap, range.start, range.end, [&](uint64_t address, uint64_t word) {
      // A swapped page is not mapped by anyone; reading it in makes it ours to pin.
      bool lone = (word & word_exclusive) || !(word & word_present);
      append(lone ? exclusive : shared, address, address + page_size);
    });
}

std::vector<PageRange> intersect(const std::vector<PageRange>& ranges,
                                 const std::vector<PageRange>& areas) {
  std::vector<PageRange> result;
  auto area = areas.begin();
  for (const PageRange& range : ranges) {
    while (area != areas.end() && area->end <= range.start) ++area;
    for (auto a = area; a != areas.end() && a->start < range.end; ++a)
      append(&result, std::max(range.start, a->start), std::min(range.end, a->end));
  }
  return result;
}

std::vector<PageRange> without(const std::vector<PageRange>& ranges,
                               const std::vector<PageRange>& areas) {
  std::vector<PageRange> rest;
  auto area = areas.begin();
  for (PageRange range : ranges) {
    while (area != areas.end() && area->end <= range.start) ++area;
    for (auto a = area; a != areas.end() && a->start < range.end; ++a) {
      if (a->start > range.start) rest.push_back({range.start, a->start});
      range.start = std::min(range.end, a->end);
    }
    if (range.start < range.end) rest.push_back(range);
  }
  return rest;
}

void PageCopier::add(Piece piece) {
  bytes_ += piece.size;
  while (piece.size > 0) {
    Piece part = piece;
    part.size = std::min(piece.size, buffer_size);
    pieces_.push_back(part);
    piece.size -= part.size;
    piece.address += part.size;
    piece.offset += part.size;
  }
}

void PageCopier::run(const std::function<void(uint64_t)>& progress,
                     void (*copy)(const Piece&, void* buffer)) {
  std::atomic<size_t> next{0};
  std::atomic<uint64_t> done{0};
  std::exception_ptr failure;
  std::mutex failure_lock;
  auto work = [&](bool tell) {
    auto buffer = std::make_unique_for_overwrite<char[]>(buffer_size);
    try {
      for (size_t i; (i = next++) < pieces_.size();) {
        copy(pieces_[i], buffer.get());
        done += pieces_[i].size;
        if (tell && pieces_[i].size == buffer_size) progress(done);
      }
    } catch (...) {
      std::lock_guard guard(failure_lock);
      if (!failure) failure = std::current_exception();
      next = pieces_.size();
    }
  };
  std::vector<std::thread> helpers;
  uint64_t useful = std::min<uint64_t>(workers_, bytes_ / worth_a_thread + 1);
  try {
    for (uint64_t i = 1; i < useful; ++i) helpers.emplace_back(work, false);
  } catch (const std::system_error&) {
    // No thread to be had (a limit on processes, say): fewer do it too.
  }
  work(true);
  for (std::thread& helper : helpers) helper.join();
  if (failure) std::rethrow_exception(failure);
  progress(bytes_);
}

void PageCopier::save(const std::function<void(uint64_t)>& progress) { run(progress, save_piece); }
void PageCopier::fill(const std::function<void(uint64_t)>& progress) { run(progress, fill_piece); }

uint64_t store_pages(FrozenTask& task, const image::MmEntry& mm,
                     const std::vector<PageRange>& whole, uint32_t pages_id, bool lone,
                     image::ImageWriter& writer, PageCopier& copier,
                     const std::vector<PageRange>& copyable,
                     std::vector<PageCopier::Piece>* copyable_pieces) {
  std::string stem = fmt::format("pagemap-{}", task.ns_pid);
  image::PagemapHead head;
  head.set_pages_id(pages_id);
  writer.append(stem, head);
  int image = writer.raw(fmt::format("pages-{}", pages_id));

  UniqueFd pagemap = kernel::open_at(task.proc.get(), "pagemap", O_RDONLY);
  std::vector<PageRange> pages =
      own_pages_of_kinds(pagemap.get(), dumped_areas(mm, image::vma_anon_private),
                         dumped_areas(mm, image::vma_file_private));
  for (const image::VmaEntry& vma : mm.vmas())
    if (vma.status() & image::vma_vdso) append(&pages, vma.start(), vma.end());
  pages = united(std::move(pages), whole);

  std::vector<PageRange> exclusive, shared;
  if (lone)
    exclusive = pages;
  else
    split_by_sharing(pagemap.get(), pages, &exclusive, &shared);

  // Where each address lies in the image: pages stand in ascending order.
  uint64_t offset = 0, count = 0;
  std::vector<std::pair<PageRange, uint64_t>> placed;
  for (const PageRange& range : pages) {
    image::PagemapEntry entry;
    entry.set_vaddr(range.start);
    entry.set_flags(image::page_present);
    image::set_page_count(entry, range.pages());
    writer.append(stem, entry);
    placed.emplace_back(range, offset);
    offset += range.end - range.start;
    count += range.pages();
  }
  auto place_all = [&](const std::vector<PageRange>& ranges, PageCopier::Through through,
                       auto give) {
    auto place = placed.begin();
    for (const PageRange& range : ranges) {
      while (place->first.end <= range.start) ++place;
      give({through, task.pid, task.mem.get(), range.start, image,
            place->second + (range.start - place->first.start), range.end - range.start});
    }
  };
  auto add = [&](const std::vector<PageRange>& ranges, PageCopier::Through through) {
    place_all(without(ranges, copyable), through,
              [&](const PageCopier::Piece& piece) { copier.add(piece); });
    if (!copyable.empty())
      place_all(intersect(ranges, copyable), through,
                [&](const PageCopier::Piece& piece) { copyable_pieces->push_back(piece); });
  };
  // process_vm_readv obeys the task's own protection; /proc/PID/mem does not.
  std::vector<PageRange> readable_areas, hidden_areas;
  for (const image::VmaEntry& vma : mm.vmas())
    append(vma.prot() & 1 ? &readable_areas : &hidden_areas, vma.start(), vma.end());
  add(intersect(exclusive, readable_areas), PageCopier::Through::process_vm);
  add(intersect(exclusive, hidden_areas), PageCopier::Through::file);
  add(shared, PageCopier::Through::file);
  return count;
}

void fill_pages(const image::TaskImage& task, pid_t pid, int pages,
                const std::vector<PageRange>& there, int mem, PageCopier& copier) {
  uint64_t offset = 0;
  for (const image::PagemapEntry& entry : task.pagemap) {
    if (!image::is_present(entry)) continue;
    uint64_t start = entry.vaddr(), end = start + image::page_count(entry) * page_size;
    std::vector<PageRange> areas;
    for (const image::VmaEntry& vma : task.mm.vmas())
      if (vma.end() > start && vma.start() < end && !is_kernel_made(vma))
        areas.push_back({std::max(start, vma.start()), std::min(end, vma.end())});
    auto add = [&](const std::vector<PageRange>& ranges, PageCopier::Through through) {
      for (const PageRange& range : ranges)
        copier.add({through, pid, mem, range.start, pages, offset + (range.start - start),
                    range.end - range.start});
    };
    add(without(areas, there), PageCopier::Through::process_vm);
    add(intersect(areas, there), PageCopier::Through::differences);
    offset += end - start;
  }
}

uint64_t store_shared(uint64_t shmid, int fd, uint32_t pages_id, image::ImageWriter& writer,
                      PageCopier& copier) {
  std::string stem = fmt::format("pagemap-shmem-{}", shmid);
  image::PagemapHead head;
  head.set_pages_id(pages_id);
  writer.append(stem, head);
  int image = writer.raw(fmt::format("pages-{}", pages_id));
  uint64_t offset = 0;
  for (long at = 0;;) {
    long data = kernel::call(SYS_lseek, fd, at, SEEK_DATA);
    if (data == -ENXIO) break;
    kernel::must(data, "find the pages of", stem);
    long hole =
        kernel::must(kernel::call(SYS_lseek, fd, data, SEEK_HOLE), "find the pages of", stem);
    const auto bytes = static_cast<uint64_t>(hole - data);  // of the last page perhaps not all
    const uint64_t size = (bytes + page_size - 1) & ~(page_size - 1);
    image::PagemapEntry entry;
    entry.set_vaddr(static_cast<uint64_t>(data));
    entry.set_flags(image::page_present);
    image::set_page_count(entry, size / page_size);
    writer.append(stem, entry);
    copier.add(
        {PageCopier::Through::file, 0, fd, static_cast<uint64_t>(data), image, offset, bytes});
    offset += size;
    at = hole;
  }
  if (offset > 0)
    kernel::must(kernel::call(SYS_ftruncate, image, offset), "make room in", "the page image");
  return offset / page_size;
}

namespace {

// Through `piece`, whose place is where the area of `size` bytes begins.
void fill_area(const image::PagemapImage& pagemap, PageCopier::Piece piece, uint64_t size,
               PageCopier& copier) {
  const uint64_t start = piece.address;
  for (const image::PagemapEntry& entry : pagemap.entries) {
    if (!image::is_present(entry)) continue;
    const uint64_t bytes = image::page_count(entry) * page_size;
    piece.address = start + entry.vaddr();
    piece.size = std::min(bytes, size - std::min(size, entry.vaddr()));
    copier.add(piece);
    piece.offset += bytes;
  }
}

}  // namespace

void fill_shared(const image::PagemapImage& pagemap, int fd, uint64_t size, int pages,
                 PageCopier& copier) {
  fill_area(pagemap, {PageCopier::Through::file, 0, fd, 0, pages, 0, 0}, size, copier);
}

void fill_mapped(const image::PagemapImage& pagemap, uint64_t address, int pages,
                 PageCopier& copier) {
  constexpr uint64_t all = UINT64_MAX;
  fill_area(pagemap, {PageCopier::Through::process_vm, getpid(), -1, address, pages, 0, 0}, all,
            copier);
}

}  // namespace stasis::engine
