#include "engine/memory/vdso.h"

#include <asm/prctl.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#include <cstring>
#include <optional>

#include "engine/image/format.h"
#include "kernel/fs.h"
#include "kernel/proc_maps.h"

#ifndef ARCH_MAP_VDSO_64
#define ARCH_MAP_VDSO_64 0x2003
#endif

namespace stasis::engine {

namespace {

struct Layout {
  uint64_t start = 0;  // of the data pages in front
  uint64_t code = 0, end = 0;
  bool operator==(const Layout& other) const {
    return code - start == other.code - other.start && end - code == other.end - other.code;
  }
};

std::optional<Layout> layout_of(const image::MmEntry& mm) {
  Layout layout;
  for (const image::VmaEntry& vma : mm.vmas()) {
    if ((vma.status() & image::vma_vvar) && layout.start == 0) layout.start = vma.start();
    if (vma.status() & image::vma_vdso) {
      layout.code = vma.start();
      layout.end = vma.end();
    }
  }
  if (layout.code == 0) return std::nullopt;
  if (layout.start == 0) layout.start = layout.code;
  return layout;
}

Layout our_layout() {
  Layout layout;
  for (const kernel::MappedArea& area : kernel::parse_maps(kernel::read_file("/proc/self/maps"))) {
    if (area.path.starts_with("[vvar") && layout.start == 0) layout.start = area.start;
    if (area.path == "[vdso]") {
      layout.code = area.start;
      layout.end = area.end;
    }
  }
  return layout;
}

// The dumped vdso's bytes, if the image holds them.
std::vector<char> content(const image::Checkpoint& checkpoint, const image::TaskImage& task,
                          const Layout& layout) {
  uint64_t offset = 0;
  for (const image::PagemapEntry& entry : task.pagemap) {
    if (!image::is_present(entry)) continue;
    uint64_t size = image::page_count(entry) * image::page_size;
    if (entry.vaddr() <= layout.code && layout.end <= entry.vaddr() + size) {
      std::vector<char> bytes(layout.end - layout.code);
      UniqueFd pages = checkpoint.dir.raw(fmt::format("pages-{}", task.pages_id));
      kernel::must(kernel::call(SYS_pread64, pages.get(), bytes.data(), bytes.size(),
                                offset + layout.code - entry.vaddr()),
                   "read", fmt::format("pages-{}.img", task.pages_id));
      return bytes;
    }
    offset += size;
  }
  return {};
}

}  // namespace

void check_vdso(const image::Checkpoint& checkpoint) {
  Layout ours = our_layout();
  for (const image::TaskImage& task : checkpoint.tasks) {
    std::optional<Layout> dumped = layout_of(task.mm);
    if (!dumped) continue;
    std::vector<char> bytes = content(checkpoint, task, *dumped);
    bool same = *dumped == ours &&
                (bytes.empty() ||
                 std::string_view(bytes.data(), bytes.size()) ==
                     std::string_view(reinterpret_cast<const char*>(ours.code), bytes.size()));
    if (same) continue;
    utsname kernel{};
    uname(&kernel);
    throw Error("restore", fmt::format("process {} ({})", task.tree.pid(), task.core().comm()))
        .because(fmt::format("it was dumped under another kernel: its vdso differs from that of {}",
                             kernel.release))
        .hint("restore under the kernel that the checkpoint was made under");
  }
}

void map_vdso(const image::MmEntry& mm, SyscallBatch& batch) {
  if (std::optional<Layout> layout = layout_of(mm))
    batch.must("map the vdso of", SYS_arch_prctl, ARCH_MAP_VDSO_64, layout->start);
}

}  // namespace stasis::engine
