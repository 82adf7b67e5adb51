#include "engine/remote/trampoline.h"

#include <fmt/format.h>
#include <linux/memfd.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/remote/batch_code.h"
#include "kernel/fs.h"
#include "kernel/proc_maps.h"

namespace stasis::engine {

namespace {

constexpr uint64_t page = 4096;
constexpr uint64_t code_size = page;
constexpr uint64_t table_size = 16 << 20;  // taken as it is used
constexpr uint64_t lowest = 0x10000000;
constexpr uint64_t highest = uint64_t{1} << 46;  // below where stacks and libraries live

}  // namespace

uint64_t find_common_hole(std::vector<std::pair<uint64_t, uint64_t>> taken, uint64_t size) {
  std::sort(taken.begin(), taken.end());
  uint64_t at = lowest;
  for (auto [start, end] : taken) {
    if (start >= at + size + page) break;
    at = std::max(at, (end + page + page - 1) & ~(page - 1));
  }
  return at + size <= highest ? at : 0;
}

Trampoline::Trampoline(std::vector<std::pair<uint64_t, uint64_t>> taken) {
  for (const kernel::MappedArea& area : kernel::parse_maps(kernel::read_file("/proc/self/maps")))
    taken.emplace_back(area.start, area.end);
  uint64_t start = find_common_hole(std::move(taken), code_size + table_size);
  if (start == 0)
    throw Error("restore", "the container").because("no address is free in all of its processes");
  memory_.reset(static_cast<int>(
      kernel::must(kernel::call(SYS_memfd_create, "stasis", MFD_CLOEXEC), "make a memory file")));
  kernel::must(kernel::call(SYS_ftruncate, memory_.get(), code_size + table_size),
               "size a memory file");
  std::span<const uint8_t> code = trampoline_code().bytes;
  kernel::pwrite_all(memory_.get(), code.data(), code.size(), 0, "a memory file");
  start_ = start;
  for (const Part& part : parts())
    kernel::must(kernel::call(SYS_mmap, part.address, part.size, part.protection,
                              MAP_SHARED | MAP_FIXED_NOREPLACE, memory_.get(), part.offset),
                 "map a memory file");
}

Trampoline::~Trampoline() {
  // Like close(), no step of an operation: there is nothing in it to fail.
  if (start_ != 0) ::munmap(reinterpret_cast<void*>(start_), code_size + table_size);
}

std::array<Trampoline::Part, 2> Trampoline::parts() const {
  return {Part{start_, code_size, PROT_READ | PROT_EXEC, 0},
          Part{start_ + code_size, table_size, PROT_READ | PROT_WRITE, code_size}};
}

uint64_t Trampoline::end() const { return start_ + code_size + table_size; }

void Trampoline::run(Tracee& task, SyscallBatch& batch, const std::string& who) {
  if (batch.empty()) return;
  if (batch.size() > table_size)
    throw Error("restore", who)
        .because(fmt::format("it needs {} bytes of system calls at once", batch.size()));
  std::span<uint8_t> table(reinterpret_cast<uint8_t*>(start_ + code_size), batch.size());
  batch.encode(start_ + code_size, table);
  TrampolineCode code = trampoline_code();
  Registers r = task.registers();
  r.orig_rax = ~0ull;
  r.rip = start_ + code.entry;
  r.rbx = start_ + code_size;
  r.r12 = batch.calls();
  task.set_registers(r);
  for (;;) {
    task.resume();
    Tracee::Stop stop = task.wait();
    if (stop.event != 0) continue;
    if (stop.signal == SIGTRAP && task.registers().rip == start_ + code.trap) break;
    throw Error("restore", who)
        .because(fmt::format("it took signal {} while it was being made", stop.signal));
  }
  batch.decode(table, who);
}

uint64_t Trampoline::stage(const void* bytes, size_t size) {
  memcpy(reinterpret_cast<void*>(start_ + code_size), bytes, size);
  return start_ + code_size;
}

long Trampoline::run_traced(Tracee& task, const char* what, const std::string& who, long nr,
                            std::vector<uint64_t> args) {
  return kernel::must(task.run_syscall(start_ + trampoline_code().syscall, nr, std::move(args)),
                      what, who);
}

}  // namespace stasis::engine
