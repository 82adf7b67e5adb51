#include "engine/memory/vdso.h"

#include <asm/prctl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <span>

#include "engine/image/format.h"
#include "engine/memory/address_space.h"
#include "engine/memory/vdso_detour.h"
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
  uint64_t size() const { return end - start; }
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
std::vector<uint8_t> content(const image::Checkpoint& checkpoint, const image::TaskImage& task,
                             const Layout& layout) {
  uint64_t offset = 0;
  for (const image::PagemapEntry& entry : task.pagemap) {
    if (!image::is_present(entry)) continue;
    uint64_t size = image::page_count(entry) * image::page_size;
    if (entry.vaddr() <= layout.code && layout.end <= entry.vaddr() + size) {
      std::vector<uint8_t> bytes(layout.end - layout.code);
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

std::span<const uint8_t> bytes_of(const Layout& ours) {
  return {reinterpret_cast<const uint8_t*>(ours.code), ours.end - ours.code};
}

// A task with the vdso of another kernel.
class Foreign {
 public:
  Foreign(image::TaskImage& task, const Layout& dumped, std::vector<uint8_t> bytes)
      : task_(task), dumped_(dumped), bytes_(std::move(bytes)) {
    if (bytes_.empty()) refuse("the image doesn't hold its vdso");
    for (const image::CoreEntry& thread : task_.threads) {
      uint64_t ip = thread.thread_info().gpregs().ip();
      if (ip >= dumped_.code && ip < dumped_.end)
        refuse("it was in the middle of a function of that kernel's vdso");
    }
  }

  void lead_to(const Layout& ours, uint64_t place) {
    const auto there = vdso_functions(bytes_of(ours));
    const auto dumped = vdso_functions(bytes_);
    if (dumped.empty()) refuse("its vdso has no functions that could be replaced");
    for (const auto& [name, function] : dumped) {
      auto same = there.find(name);
      uint64_t target =
          same == there.end() ? 0 : place + (ours.code - ours.start) + same->second.offset;
      std::vector<uint8_t> code = detour(name, target);
      if (code.empty() || code.size() > function.size)
        refuse(fmt::format("its vdso has a function that this kernel lacks, {}", name));
      task_.patches.push_back({dumped_.code + function.offset, {code.begin(), code.end()}});
    }
    change_map(ours, place);
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    utsname kernel{};
    uname(&kernel);
    throw Error("restore", fmt::format("process {} ({})", task_.tree.pid(), task_.core().comm()))
        .because(
            fmt::format("it was dumped under another kernel than {}, and {}", kernel.release, why))
        .hint("restore under the kernel that the checkpoint was made under");
  }

  // The dumped pages become the task's own. Those of data are empty: to code that
  // goes on in the middle of a function (a signal came in between) this says that
  // the clock can't be read without a system call.
  void change_map(const Layout& ours, uint64_t place) {
    std::vector<image::VmaEntry> vmas(task_.mm.vmas().begin(), task_.mm.vmas().end());
    std::optional<image::VmaEntry> code, data;
    for (image::VmaEntry& vma : vmas) {
      if (!(vma.status() & (image::vma_vdso | image::vma_vvar))) continue;
      (vma.status() & image::vma_vdso ? code : data) = vma;
      vma.set_status(image::vma_regular | image::vma_anon_private);
      vma.set_flags(MAP_PRIVATE | MAP_ANONYMOUS);
      vma.set_pgoff(0);
    }
    auto add = [&](image::VmaEntry vma, uint64_t start, uint64_t end) {
      vma.set_start(start);
      vma.set_end(end);
      vmas.push_back(std::move(vma));
    };
    uint64_t middle = place + (ours.code - ours.start);
    if (!code) throw Error("restore", "the memory").because("the vdso isn't in it");
    if (!data) {
      data = code;
      data->set_status((code->status() & ~uint32_t{image::vma_vdso}) | image::vma_vvar);
      data->set_prot(PROT_READ);
    }
    add(*data, place, middle);
    add(*code, middle, place + ours.size());
    // Guards stand behind the mappings, and stay there.
    std::stable_sort(vmas.begin(), vmas.end(), [](const auto& a, const auto& b) {
      auto key = [](const image::VmaEntry& vma) {
        bool guard = vma.status() & image::vma_guard;
        return std::pair(guard, guard ? 0 : vma.start());
      };
      return key(a) < key(b);
    });
    task_.mm.mutable_vmas()->Assign(vmas.begin(), vmas.end());
  }

  image::TaskImage& task_;
  Layout dumped_;
  std::vector<uint8_t> bytes_;
};

}  // namespace

void leave_vdso(const FrozenTask& task, Tracee& thread) {
  auto vdso = std::find_if(task.areas.begin(), task.areas.end(),
                           [](const auto& area) { return area.path == "[vdso]"; });
  if (vdso == task.areas.end()) return;
  constexpr int patience = 100000;  // of functions of a few hundred instructions
  for (int i = 0; i < patience; ++i) {
    uint64_t ip = thread.registers().rip;
    if (ip < vdso->start || ip >= vdso->end) return;
    Tracee::Stop stop = thread.step();
    if (stop.event != 0 || stop.signal == SIGTRAP) continue;
    if (stop.signal == SIGSEGV || stop.signal == SIGBUS) return;  // it will fault anew
    thread.hold_back(stop.signal);
  }
}

void fit_vdso(image::Checkpoint& checkpoint,
              const std::vector<std::pair<uint64_t, uint64_t>>& taken) {
  const Layout ours = our_layout();
  uint64_t place = 0;
  for (image::TaskImage& task : checkpoint.tasks) {
    std::optional<Layout> dumped = layout_of(task.mm);
    if (!dumped) continue;
    std::vector<uint8_t> bytes = content(checkpoint, task, *dumped);
    if (*dumped == ours && (bytes.empty() || std::ranges::equal(bytes, bytes_of(ours)))) continue;
    // One place for all, so that what was forked can share it.
    if (place == 0) place = roomiest_place(taken, ours.size());
    if (place == 0) throw Error("restore", "the memory").because("no address is free in it");
    Foreign(task, *dumped, std::move(bytes)).lead_to(ours, place);
  }
}

void map_vdso(const image::MmEntry& mm, SyscallBatch& batch) {
  if (std::optional<Layout> layout = layout_of(mm))
    batch.must("map the vdso of", SYS_arch_prctl, ARCH_MAP_VDSO_64, layout->start);
}

}  // namespace stasis::engine
