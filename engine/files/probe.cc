#include "engine/files/probe.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <cstring>

#include "base/text.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

uint32_t Probe::flags() const { return static_cast<uint32_t>(info.flags & ~O_CLOEXEC); }

bool Probe::cloexec() const { return (info.flags & O_CLOEXEC) != 0; }

uint64_t Probe::device() const { return makedev(stat.stx_dev_major, stat.stx_dev_minor); }

std::string Probe::described() const {
  if (number < 0) return link;
  return fmt::format("descriptor {} ({})", number, link);
}

namespace {

// The kernel names a socket's protocol in an attribute of its inode.
std::string protocol_of(pid_t pid, int number) {
  std::string path = fmt::format("/proc/{}/fd/{}", pid, number);
  char name[64];
  long size = kernel::call(SYS_getxattr, path.c_str(), "system.sockprotoname", name, sizeof name);
  return size > 0 ? std::string(name, strnlen(name, static_cast<size_t>(size))) : "";
}

}  // namespace

Probe probe_descriptor(int proc, pid_t pid, int number) {
  Probe probe;
  probe.pid = pid;
  probe.number = number;
  std::string path = fmt::format("fd/{}", number);
  probe.link = kernel::read_link_at(proc, path);
  kernel::must(kernel::call(SYS_statx, proc, path.c_str(), AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC,
                            STATX_BASIC_STATS, &probe.stat),
               "stat", probe.described());
  if (probe.is(S_IFSOCK)) probe.protocol = protocol_of(pid, number);
  probe.info = kernel::parse_fdinfo(kernel::read_file_at(proc, fmt::format("fdinfo/{}", number)));
  return probe;
}

Probe probe_link(const std::string& proc_link, int duplicate) {
  Probe probe;
  probe.link = kernel::read_link(proc_link);
  probe.stat = kernel::stat_fd(duplicate);
  probe.info =
      kernel::parse_fdinfo(kernel::read_file(fmt::format("/proc/self/fdinfo/{}", duplicate)));
  return probe;
}

std::string process_name(pid_t pid) {
  try {
    std::string name = kernel::read_file(fmt::format("/proc/{}/comm", pid));
    return fmt::format("process {} ({})", pid, text::trim(name));
  } catch (const Error&) {  // it has ended
    return fmt::format("process {}", pid);
  }
}

}  // namespace stasis::engine::files
