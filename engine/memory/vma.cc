#include "engine/memory/vma.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/prctl.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/statfs.h>
#include <sys/syscall.h>

#include <algorithm>
#include <bit>

#include "engine/image/format.h"
#include "kernel/fs.h"
#include "kernel/proc_misc.h"

namespace stasis::engine {

namespace {

using image::VmaEntry;
using kernel::MappedArea;

// A type of mapping of Linux 6.11, which Debian 12's headers don't have.
constexpr uint32_t map_droppable = 0x08;

constexpr uint32_t huge_flags = MAP_HUGETLB | uint32_t{MAP_HUGE_MASK} << MAP_HUGE_SHIFT;

struct Advice {
  kernel::VmFlags::Code code;
  int advice;
};
constexpr Advice advices[] = {
    {"sr", MADV_SEQUENTIAL}, {"rr", MADV_RANDOM},     {"dc", MADV_DONTFORK},
    {"dd", MADV_DONTDUMP},   {"mg", MADV_MERGEABLE},  {"hg", MADV_HUGEPAGE},
    {"nh", MADV_NOHUGEPAGE}, {"wf", MADV_WIPEONFORK},
};

bool is_shared_anonymous(const MappedArea& area) {
  return area.shared && area.path == "/dev/zero (deleted)";
}

// The kernel names the segment's memory so, in the file system of all shared
// memory that has no name; a file of a container may have the same name.
bool is_sysv_segment(const MappedArea& area) {
  if (!area.shared || !area.path.starts_with("/SYSV") || !area.path.ends_with(" (deleted)"))
    return false;
  if (area.flags.has("ht")) return true;
  UniqueFd other(static_cast<int>(
      kernel::must(kernel::call(SYS_memfd_create, "", MFD_CLOEXEC), "make", "a memory file")));
  struct statx about = kernel::stat_fd(other.get());
  return area.dev_major == about.stx_dev_major && area.dev_minor == about.stx_dev_minor;
}

bool is_anonymous_huge(const MappedArea& area) {
  return area.flags.has("ht") && area.path == "/anon_hugepage (deleted)";
}

// Mapping flags that tell the size of its pages.
uint32_t huge_page_flags(const FrozenTask& task, const MappedArea& area) {
  UniqueFd memory = kernel::open(
      fmt::format("/proc/{}/map_files/{:x}-{:x}", task.pid, area.start, area.end), O_RDONLY);
  struct statfs about{};
  kernel::must(kernel::call(SYS_fstatfs, memory.get(), &about), "look at", "huge pages");
  auto size = static_cast<uint64_t>(about.f_bsize);
  return MAP_HUGETLB | static_cast<uint32_t>(std::countr_zero(size)) << MAP_HUGE_SHIFT;
}

std::string place(const MappedArea& area) {
  return fmt::format("{:x}-{:x} {}", area.start, area.end, area.path);
}

[[noreturn]] void refuse(const FrozenTask& task, const MappedArea& area, std::string why,
                         std::string remedy) {
  throw Error("checkpoint", task.name())
      .because(fmt::format("{} (its mapping {})", why, place(area)))
      .hint(std::move(remedy));
}

void check(const FrozenTask& task, const MappedArea& area) {
  if (area.flags.has("ss"))
    refuse(task, area, "it uses a shadow stack", "start the program without user shadow stacks");
  if (area.flags.has("sl"))
    refuse(task, area, "it has sealed memory (mseal)", "start the program without mseal");
  if (area.flags.has("um") || area.flags.has("uw"))
    refuse(task, area, "its memory is watched by userfaultfd",
           "stop the program's use of userfaultfd");
  if (area.flags.has("ht") && !is_anonymous_huge(area) && !is_sysv_segment(area))
    refuse(task, area, "it uses huge pages of hugetlbfs",
           "start the program without explicit huge pages");
  if (area.flags.has("io") || area.flags.has("pf"))
    refuse(task, area, "it maps device memory", "stop the program's use of the device");
  if (area.path == "/[aio] (deleted)" || area.path == "/[aio]")
    refuse(task, area, "it has an asynchronous I/O context", "stop the program's use of io_setup");
  if (area.path.starts_with("anon_inode:"))
    refuse(task, area, "it maps a kernel object", "stop the program's use of it");
  if (area.path.starts_with("socket:"))
    refuse(task, area, "it maps a packet socket", "stop the program's use of it");
}

uint32_t kernel_status(const MappedArea& area) {
  if (area.path == "[vdso]") return image::vma_regular | image::vma_vdso;
  if (area.path == "[vvar]" || area.path == "[vvar_vclock]")
    return image::vma_regular | image::vma_vvar;
  if (area.path == "[vsyscall]") return image::vma_vsyscall;
  return 0;
}

// Whether the file is a memory file.
bool store_file(const FrozenTask& task, const MappedArea& area, files::Dumper& files,
                VmaEntry* vma) {
  std::string link = fmt::format("/proc/{}/map_files/{:x}-{:x}", task.pid, area.start, area.end);
  // Only a shared mapping that can ever be written needs the file open for that.
  uint32_t flags = area.shared && area.flags.has("mw") ? O_RDWR : O_RDONLY;
  vma->set_fdflags(flags);
  auto file = files.path_file(task.pid, link, flags);
  vma->set_shmid(file.id);
  return file.type == image::MEMFD;
}

void store_vma(const FrozenTask& task, const MappedArea& area, files::Dumper& files,
               VmaEntry* vma) {
  uint32_t status = kernel_status(area);
  if (status == 0) check(task, area);
  vma->set_start(area.start);
  vma->set_end(area.end);
  vma->set_pgoff(area.offset);
  vma->set_shmid(0);
  vma->set_prot(static_cast<uint32_t>(area.prot));
  vma->set_fd(-1);
  uint32_t flags = area.shared ? MAP_SHARED : MAP_PRIVATE;
  if (area.flags.has("dp")) flags = map_droppable;
  if (area.flags.has("gd")) flags |= MAP_GROWSDOWN;
  if (area.flags.has("lo")) flags |= MAP_LOCKED;
  if (area.flags.has("nr")) flags |= MAP_NORESERVE;
  uint64_t madv = 0;
  for (const Advice& a : advices)
    if (area.flags.has(a.code)) madv |= uint64_t{1} << a.advice;

  if (status != 0) {
    // The kernel's own areas: only their place matters.
    flags = MAP_PRIVATE | MAP_ANONYMOUS;
    status |= image::vma_anon_private;
    vma->set_pgoff(0);
  } else if (is_sysv_segment(area)) {
    status = image::vma_regular | image::vma_anon_shared | image::vma_sysvipc;
    flags |= MAP_ANONYMOUS;
    vma->set_shmid(area.inode);
    vma->set_fdflags(area.flags.has("mw") ? O_RDWR : O_RDONLY);
  } else if (is_anonymous_huge(area)) {
    status = image::vma_regular | (area.shared ? image::vma_anon_shared : image::vma_anon_private);
    flags |= MAP_ANONYMOUS | huge_page_flags(task, area);
    if (area.shared)
      vma->set_shmid(area.inode);
    else
      vma->set_pgoff(0);
  } else if (is_shared_anonymous(area)) {
    status = image::vma_regular | image::vma_anon_shared;
    flags |= MAP_ANONYMOUS;
    vma->set_shmid(area.inode);
  } else if (area.inode != 0) {
    status = image::vma_regular | (area.shared ? image::vma_file_shared : image::vma_file_private);
    if (store_file(task, area, files, vma)) status |= image::vma_memfd;
  } else {
    status = image::vma_regular | image::vma_anon_private;
    if (area.path == "[heap]") status |= image::vma_heap;
    flags |= MAP_ANONYMOUS;
    vma->set_pgoff(0);
  }
  vma->set_flags(flags);
  vma->set_status(status);
  if (madv != 0) vma->set_madv(madv);
}

int protection_while_filled(const VmaEntry& vma) {
  return static_cast<int>(vma.prot()) | (has_own_pages(vma) ? PROT_READ | PROT_WRITE : 0);
}

}  // namespace

bool is_kernel_made(const VmaEntry& vma) {
  return (vma.status() & (image::vma_vdso | image::vma_vvar | image::vma_vsyscall)) != 0;
}

bool has_own_pages(const VmaEntry& vma) {
  if (vma.status() & (image::vma_vvar | image::vma_vsyscall)) return false;
  // Its owner expects to find it empty at any time.
  if ((vma.flags() & MAP_TYPE) == map_droppable) return false;
  return (vma.status() & image::vma_regular) &&
         (vma.status() & (image::vma_anon_private | image::vma_file_private));
}

void store_vmas(const FrozenTask& task, files::Dumper& files, image::MmEntry* mm) {
  for (const MappedArea& area : task.areas) {
    if (area.path == "[vvar_vclock]" && mm->vmas_size() > 0) {
      // The format knows one area of data pages in front of the vdso.
      VmaEntry* vvar = mm->mutable_vmas(mm->vmas_size() - 1);
      if ((vvar->status() & image::vma_vvar) && vvar->end() == area.start) {
        vvar->set_end(area.end);
        continue;
      }
    }
    store_vma(task, area, files, mm->add_vmas());
  }
}

void store_mm(const FrozenTask& task, uint64_t brk, files::Dumper& files, image::MmEntry* mm) {
  const kernel::ProcStat& stat = task.stat;
  mm->set_mm_start_code(stat.start_code);
  mm->set_mm_end_code(stat.end_code);
  mm->set_mm_start_data(stat.start_data);
  mm->set_mm_end_data(stat.end_data);
  mm->set_mm_start_stack(stat.start_stack);
  mm->set_mm_start_brk(stat.start_brk);
  mm->set_mm_brk(brk);
  mm->set_mm_arg_start(stat.arg_start);
  mm->set_mm_arg_end(stat.arg_end);
  mm->set_mm_env_start(stat.env_start);
  mm->set_mm_env_end(stat.env_end);
  // CRIU takes no more than this; the kernel adds the closing AT_NULL itself.
  constexpr int most_auxv_words = 44;
  auto auxv = kernel::parse_auxv(kernel::read_file_at(task.proc.get(), "auxv"));
  for (size_t i = 0; i + 1 < auxv.size() && auxv[i] != 0; i += 2) {
    if (mm->mm_saved_auxv_size() == most_auxv_words) break;
    mm->add_mm_saved_auxv(auxv[i]);
    mm->add_mm_saved_auxv(auxv[i + 1]);
  }
  mm->set_exe_file_id(
      files.path_file(task.pid, fmt::format("/proc/{}/exe", task.pid), O_RDONLY).id);
  if (task.status.thp_enabled) mm->set_thp_disabled(!*task.status.thp_enabled);
}

void map_vmas(const image::MmEntry& mm, const std::map<size_t, int>& descriptors,
              const std::map<size_t, uint64_t>& there, SyscallBatch& batch) {
  for (size_t i = 0; i < static_cast<size_t>(mm.vmas_size()); ++i) {
    const VmaEntry& vma = mm.vmas(static_cast<int>(i));
    if (is_kernel_made(vma) || (vma.status() & (image::vma_guard | image::vma_sysvipc)) ||
        there.contains(i))
      continue;
    uint32_t flags = vma.flags() & (MAP_TYPE | MAP_GROWSDOWN | MAP_NORESERVE | huge_flags);
    flags |= MAP_FIXED_NOREPLACE;
    auto found = descriptors.find(i);
    int fd = found == descriptors.end() ? -1 : found->second;
    if (fd < 0) flags |= MAP_ANONYMOUS;
    batch.must("map the memory of", SYS_mmap, vma.start(), vma.end() - vma.start(),
               protection_while_filled(vma), flags, fd, fd < 0 ? 0 : vma.pgoff());
  }
}

std::map<Attachment, std::vector<const VmaEntry*>> attachments(const image::MmEntry& mm) {
  std::map<Attachment, std::vector<const VmaEntry*>> all;
  for (const VmaEntry& vma : mm.vmas())
    if (vma.status() & image::vma_sysvipc)
      all[{vma.start() - vma.pgoff(), vma.shmid()}].push_back(&vma);
  return all;
}

void attach_segments(const image::MmEntry& mm, const std::map<uint64_t, uint64_t>& sizes,
                     SyscallBatch& batch) {
  for (const auto& [attachment, vmas] : attachments(mm)) {
    // Without its flags, of an older CRIU, the most that it can have had.
    bool writable = std::any_of(vmas.begin(), vmas.end(), [](const VmaEntry* vma) {
      return !vma->has_fdflags() || vma->fdflags() == O_RDWR;
    });
    batch.must("attach shared memory to", SYS_shmat, attachment.segment, attachment.start,
               writable ? 0 : SHM_RDONLY);
    // All of it is attached, always; parts of it had been unmapped later.
    uint64_t at = attachment.start;
    auto cut = [&](uint64_t end) {
      if (at < end) batch.must("unmap shared memory of", SYS_munmap, at, end - at);
    };
    for (const VmaEntry* vma : vmas) {
      cut(vma->start());
      at = vma->end();
    }
    cut(attachment.start + sizes.at(attachment.segment));
  }
}

std::vector<PageRange> attached_ranges(const image::MmEntry& mm,
                                       const std::map<uint64_t, uint64_t>& sizes) {
  std::vector<PageRange> ranges;
  for (const auto& [attachment, vmas] : attachments(mm))
    ranges.push_back({attachment.start, attachment.start + sizes.at(attachment.segment)});
  return ranges;
}

void protect_vmas(const image::MmEntry& mm, SyscallBatch& batch) {
  for (const VmaEntry& vma : mm.vmas()) {
    if (is_kernel_made(vma) || (vma.status() & image::vma_guard)) continue;
    uint64_t size = vma.end() - vma.start();
    if (protection_while_filled(vma) != static_cast<int>(vma.prot()) ||
        (vma.status() & image::vma_sysvipc))
      batch.must("protect the memory of", SYS_mprotect, vma.start(), size, vma.prot());
    for (const Advice& a : advices)
      if (vma.madv() >> a.advice & 1) {
        // Merging and huge pages depend on how this kernel is built, and only
        // speed depends on them.
        if (a.advice == MADV_DONTFORK || a.advice == MADV_WIPEONFORK || a.advice == MADV_DONTDUMP)
          batch.must("advise the memory of", SYS_madvise, vma.start(), size, a.advice);
        else
          batch.may(SYS_madvise, vma.start(), size, a.advice);
      }
    if (vma.flags() & MAP_LOCKED)
      batch.must("lock the memory of", SYS_mlock2, vma.start(), size, MLOCK_ONFAULT);
  }
}

void restore_mm(const image::MmEntry& mm, int exe_fd, SyscallBatch& batch) {
  std::vector<uint64_t> auxv(mm.mm_saved_auxv().begin(), mm.mm_saved_auxv().end());
  // The kernel wants whole pairs, closed by AT_NULL, and no more than it has room for.
  size_t end = 0;
  while (end + 1 < auxv.size() && auxv[end] != 0) end += 2;
  auxv.resize(end);
  auxv.insert(auxv.end(), {0, 0});
  prctl_mm_map map{};
  map.start_code = mm.mm_start_code();
  map.end_code = mm.mm_end_code();
  map.start_data = mm.mm_start_data();
  map.end_data = mm.mm_end_data();
  map.start_brk = mm.mm_start_brk();
  map.brk = mm.mm_brk();
  map.start_stack = mm.mm_start_stack();
  map.arg_start = mm.mm_arg_start();
  map.arg_end = mm.mm_arg_end();
  map.env_start = mm.mm_env_start();
  map.env_end = mm.mm_env_end();
  map.auxv_size = static_cast<uint32_t>(auxv.size() * sizeof(uint64_t));
  map.exe_fd = static_cast<uint32_t>(exe_fd);
  SyscallBatch::Data words = batch.data(auxv.data(), map.auxv_size);
  SyscallBatch::Data data = batch.object(map);
  batch.point(data, offsetof(prctl_mm_map, auxv), words);
  batch.must("set the memory boundaries of", SYS_prctl, PR_SET_MM, PR_SET_MM_MAP, data, sizeof map,
             0);
  if (mm.thp_disabled())
    batch.must("disable huge pages of", SYS_prctl, PR_SET_THP_DISABLE, 1, 0, 0, 0);
}

}  // namespace stasis::engine
