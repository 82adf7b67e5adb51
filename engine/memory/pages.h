// The content of memory: which pages a dump takes, how they get into
// pages-N.img and back.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "engine/image/checkpoint.h"
#include "engine/tasks/frozen_tree.h"
#include "mm.pb.h"

namespace stasis::engine {

constexpr uint64_t page_size = 4096;

struct PageRange {
  uint64_t start, end;  // addresses
  uint64_t pages() const { return (end - start) / page_size; }
  bool operator==(const PageRange&) const = default;
};

// The pages inside `areas` (ascending) that are the task's own: present or
// swapped, not a file's, not the shared zero page. Ascending. By PAGEMAP_SCAN
// where the kernel has it (6.7), else from the words of pagemap.
std::vector<PageRange> own_pages(int pagemap, const std::vector<PageRange>& areas,
                                 bool use_scan = true);

// The same of areas that are no file's, and such that are.
std::vector<PageRange> own_pages_of_kinds(int pagemap, const std::vector<PageRange>& anonymous,
                                          const std::vector<PageRange>& of_files);

// Those of `ranges` that no other process maps too (`exclusive`), and the
// rest. Reading shared ones by process_vm_readv would unshare them: it pins
// pages, which breaks copy-on-write in the task.
void split_by_sharing(int pagemap, const std::vector<PageRange>& ranges,
                      std::vector<PageRange>* exclusive, std::vector<PageRange>* shared);

// The part of `ranges` inside the given areas, and that outside of them. All ascending.
std::vector<PageRange> intersect(const std::vector<PageRange>& ranges,
                                 const std::vector<PageRange>& areas);
std::vector<PageRange> without(const std::vector<PageRange>& ranges,
                               const std::vector<PageRange>& areas);

// Copies memory between tasks and page images, with several threads where
// there is enough to copy.
class PageCopier {
 public:
  explicit PageCopier(unsigned workers) : workers_(workers) {}

  // file: /proc/PID/mem or a shmem object. differences: only pages that differ are
  // written, so that the task goes on sharing the others; fd is its /proc/PID/mem.
  enum class Through { process_vm, file, differences };
  struct Piece {
    Through through;
    pid_t pid;         // for all but file
    int fd;            // for all but process_vm
    uint64_t address;  // in the task, or offset in the file
    int image;         // pages image
    uint64_t offset;   // in it
    uint64_t size;
  };
  void add(Piece piece);
  uint64_t bytes() const { return bytes_; }

  // Memory -> image, or image -> memory. `progress` gets the bytes done so far,
  // from the calling thread.
  void save(const std::function<void(uint64_t)>& progress);
  void fill(const std::function<void(uint64_t)>& progress);

 private:
  void run(const std::function<void(uint64_t)>& progress, void (*copy)(const Piece&, void* buffer));

  unsigned workers_;
  std::vector<Piece> pieces_;
  uint64_t bytes_ = 0;
};

// Dump of one task: writes pagemap-PID and adds what is to be copied into
// pages-N to `copier`. `lone`: no other process can share pages with this one.
// `whole`: ranges of private mappings of which all pages are taken. What lies in
// `copyable` goes to `copyable_pieces` instead. Returns the number of pages.
uint64_t store_pages(FrozenTask& task, const image::MmEntry& mm,
                     const std::vector<PageRange>& whole, uint32_t pages_id, bool lone,
                     image::ImageWriter& writer, PageCopier& copier,
                     const std::vector<PageRange>& copyable,
                     std::vector<PageCopier::Piece>* copyable_pieces);

// Restore: adds the task's pages; the VMAs are mapped and writable. Those in
// `there` have content already, which may be the right one: `mem` is the task's
// /proc/PID/mem then. `pages` and `mem` stay open until filled.
void fill_pages(const image::TaskImage& task, pid_t pid, int pages,
                const std::vector<PageRange>& there, int mem, PageCopier& copier);

// Same for a shared anonymous area or memory file behind `fd`, of `size` bytes.
uint64_t store_shared(uint64_t shmid, int fd, uint32_t pages_id, image::ImageWriter& writer,
                      PageCopier& copier);
void fill_shared(const image::PagemapImage& pagemap, int fd, uint64_t size, int pages,
                 PageCopier& copier);
// Huge pages of hugetlbfs can't be written through a descriptor: same for an
// area that we have mapped at `address`.
void fill_mapped(const image::PagemapImage& pagemap, uint64_t address, int pages,
                 PageCopier& copier);

}  // namespace stasis::engine
