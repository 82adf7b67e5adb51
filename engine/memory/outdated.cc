#include "engine/memory/outdated.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>

#include "kernel/fs.h"

namespace stasis::engine {

namespace {

using kernel::MappedArea;

// Of a pagemap word: present, and a page of a file; the rest is its frame.
constexpr uint64_t file_page = 1ull << 63 | 1ull << 61;
constexpr uint64_t frame_bits = (1ull << 55) - 1;

bool made_of_layers(const MappedArea& area, const mountmap::MountTable& mounts) {
  return area.inode != 0 && area.path.starts_with('/') && !area.path.ends_with(" (deleted)") &&
         mounts.at(area.path)->fstype == "overlay";
}

// 0 where there is none, or none that we may know.
uint64_t frame(int pagemap, uint64_t address) {
  uint64_t word = 0;
  long n = kernel::call(SYS_pread64, pagemap, &word, sizeof word, address / page_size * 8);
  return n == sizeof word && (word & file_page) == file_page ? word & frame_bits : 0;
}

// A page of the file in memory belongs to one file alone, so two mappings that
// show the same page are of the same file.
class Comparison {
 public:
  Comparison(const FrozenTask& task, const MappedArea& area)
      : task_(task),
        area_(area),
        theirs_(kernel::open_at(task.proc.get(), "pagemap", O_RDONLY)),
        ours_(kernel::open("/proc/self/pagemap", O_RDONLY)),
        own_memory_(kernel::open("/proc/self/mem", O_RDONLY)) {
    std::string link = fmt::format("/proc/{}/map_files/{:x}-{:x}", task.pid, area.start, area.end);
    UniqueFd file = kernel::open(link, O_RDONLY);
    uint64_t size = kernel::stat_fd(file.get()).stx_size;
    if (size <= area.offset) return;
    size_ = std::min(area.size(), (size - area.offset + page_size - 1) & ~(page_size - 1));
    at_ = kernel::must(
        kernel::call(SYS_mmap, 0, size_, PROT_READ, MAP_PRIVATE, file.get(), area.offset), "map",
        area.path);
  }
  Comparison(const Comparison&) = delete;
  Comparison& operator=(const Comparison&) = delete;
  ~Comparison() {
    if (size_) kernel::call(SYS_munmap, at_, size_);
  }

  uint64_t size() const { return size_; }

  // Whether it shows something there, which brings it in.
  bool shows(uint64_t page) const { return touch(task_.mem.get(), area_.start + page); }

  bool differs() const {
    if (size_ == 0) return shows(0);
    for (uint64_t page = 0; page < size_; page += page_size) {
      uint64_t shown = theirs(page);
      if (!shown) continue;
      // The kernel may move a page just now.
      for (int tries = 0; tries < 3; ++tries, shown = theirs(page))
        if (shown == ours(page)) return false;
      return shown != 0;
    }
    return false;  // all pages are its own
  }

 private:
  // By a file of /proc: what isn't there is an error, no signal.
  static bool touch(int memory, uint64_t address) {
    char byte = 0;
    return kernel::call(SYS_pread64, memory, &byte, 1, address) == 1;
  }
  uint64_t theirs(uint64_t page) const {
    return shows(page) ? frame(theirs_.get(), area_.start + page) : 0;
  }
  uint64_t ours(uint64_t page) const {
    auto address = static_cast<uint64_t>(at_) + page;
    return touch(own_memory_.get(), address) ? frame(ours_.get(), address) : 0;
  }

  const FrozenTask& task_;
  const MappedArea& area_;
  UniqueFd theirs_, ours_, own_memory_;
  long at_ = 0;
  uint64_t size_ = 0;
};

}  // namespace

std::vector<PageRange> outdated_areas(const FrozenTask& task, const mountmap::MountTable& mounts) {
  std::vector<PageRange> outdated;
  for (const MappedArea& area : task.areas) {
    if (!made_of_layers(area, mounts)) continue;
    Comparison comparison(task, area);
    if (!comparison.differs()) continue;
    bool longer = comparison.size() < area.size() && comparison.shows(comparison.size());
    if (area.shared || longer)
      throw Error("checkpoint", task.name())
          .because(fmt::format("its mapping {:x}-{:x} shows what {} was before it was changed",
                               area.start, area.end, area.path))
          .hint("let the program map the file anew");
    outdated.push_back({area.start, area.start + comparison.size()});
  }
  return outdated;
}

}  // namespace stasis::engine
