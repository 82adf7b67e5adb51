#include "engine/tasks/seccomp.h"

#include <linux/filter.h>
#include <linux/ptrace.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "kernel/call.h"

namespace stasis::engine {

namespace {

// A thread that can't be synchronized is an error instead of a result (Linux 5.7).
constexpr uint32_t flag_tsync_esrch = 1u << 4;

// The numbers of a thread's filters, oldest first.
std::vector<int> chain_of(const image::SeccompEntry& filters, const image::ThreadCoreEntry& core) {
  std::vector<int> chain;
  if (core.seccomp_mode() != image::filter || !core.has_seccomp_filter()) return chain;
  for (int64_t i = core.seccomp_filter(); i >= 0;) {
    chain.push_back(static_cast<int>(i));
    const image::SeccompFilter& filter = filters.seccomp_filters(chain.back());
    // load() has checked that prev always points to an earlier filter.
    i = filter.has_prev() ? static_cast<int64_t>(filter.prev()) : -1;
  }
  std::reverse(chain.begin(), chain.end());
  return chain;
}

std::string thread_name(const Tracee& thread) { return "thread " + std::to_string(thread.tid()); }

// One filter of the thread; 0 is the newest. Nothing behind the oldest.
bool read_filter(const Tracee& thread, unsigned index, std::string* program, uint32_t* flags) {
  long count = kernel::call(SYS_ptrace, PTRACE_SECCOMP_GET_FILTER, thread.tid(), index, nullptr);
  if (count == -ENOENT) return false;
  if (count < 0)
    throw Error("read a seccomp filter of", thread_name(thread))
        .with_errno(static_cast<int>(-count))
        .because("the kernel gives only filters that were set in classic BPF");
  program->resize(static_cast<size_t>(count) * sizeof(sock_filter));
  kernel::must(
      kernel::call(SYS_ptrace, PTRACE_SECCOMP_GET_FILTER, thread.tid(), index, program->data()),
      "read a seccomp filter of", thread_name(thread));
  seccomp_metadata metadata{};
  metadata.filter_off = index;
  long got = kernel::call(SYS_ptrace, PTRACE_SECCOMP_GET_METADATA, thread.tid(), sizeof metadata,
                          &metadata);
  *flags = got > 0 ? static_cast<uint32_t>(metadata.flags) : 0;
  return true;
}

}  // namespace

void SeccompFilters::store(const Tracee& thread, unsigned mode, image::ThreadCoreEntry* core) {
  core->set_seccomp_mode(static_cast<image::SeccompMode>(mode));
  if (mode != SECCOMP_MODE_FILTER) return;
  struct Filter {
    std::string program;
    uint32_t flags;
  };
  std::vector<Filter> newest_first;
  std::string program;
  uint32_t flags = 0;
  while (read_filter(thread, static_cast<unsigned>(newest_first.size()), &program, &flags))
    newest_first.push_back({program, flags});

  int64_t below = -1;
  for (auto filter = newest_first.rbegin(); filter != newest_first.rend(); ++filter) {
    std::string key =
        filter->program + ":" + std::to_string(filter->flags) + ":" + std::to_string(below);
    auto [known, is_new] =
        known_.emplace(std::move(key), static_cast<uint32_t>(entry_.seccomp_filters_size()));
    if (is_new) {
      image::SeccompFilter* added = entry_.add_seccomp_filters();
      added->set_filter(filter->program);
      if (filter->flags != 0) added->set_flags(filter->flags);
      if (below >= 0) added->set_prev(static_cast<uint32_t>(below));
    }
    below = known->second;
  }
  if (below >= 0) core->set_seccomp_filter(static_cast<uint32_t>(below));
}

void SeccompFilters::write(image::ImageWriter& writer) const {
  if (entry_.seccomp_filters_size() > 0) writer.append("seccomp", entry_);
}

std::vector<std::string> seccomp_programs(const Tracee& thread) {
  std::vector<std::string> programs;
  std::string program;
  uint32_t flags = 0;
  while (read_filter(thread, static_cast<unsigned>(programs.size()), &program, &flags))
    programs.push_back(program);
  std::reverse(programs.begin(), programs.end());
  return programs;
}

std::set<int> common_filters(const image::SeccompEntry& filters, const image::TaskImage& task) {
  std::set<int> common;
  for (const image::CoreEntry& thread : task.threads) {
    std::vector<int> chain = chain_of(filters, thread.thread_core());
    std::set<int> mine(chain.begin(), chain.end());
    if (&thread == &task.threads.front())
      common = mine;
    else
      std::erase_if(common, [&](int filter) { return !mine.contains(filter); });
  }
  return common;
}

void restore_seccomp(const image::SeccompEntry& filters, const image::ThreadCoreEntry& core,
                     SyscallBatch& batch, const std::set<int>& leave_out,
                     const std::set<int>& for_all) {
  if (core.seccomp_mode() == image::strict) {
    batch.must("set strict seccomp of", SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, nullptr);
    return;
  }
  for (int number : chain_of(filters, core)) {
    if (leave_out.contains(number)) continue;
    const image::SeccompFilter& filter = filters.seccomp_filters(number);
    const std::string& program = filter.filter();
    SyscallBatch::Data code = batch.data(program.data(), program.size());
    sock_fprog header{static_cast<unsigned short>(program.size() / sizeof(sock_filter)), nullptr};
    SyscallBatch::Data data = batch.object(header);
    batch.point(data, offsetof(sock_fprog, filter), code);
    uint32_t flags = filter.flags();
    if (for_all.contains(number)) flags |= SECCOMP_FILTER_FLAG_TSYNC | flag_tsync_esrch;
    batch.must("set a seccomp filter of", SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, data);
  }
}

}  // namespace stasis::engine
