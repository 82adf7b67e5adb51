// What /proc and stat tell about one descriptor of a process.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <string>

#include "kernel/proc_fdinfo.h"

namespace stasis::engine::files {

struct Probe {
  pid_t pid = 0;
  int number = -1;       // the descriptor; -1 for a file held otherwise
  std::string protocol;  // of a socket: "TCP", "UDPv6", "UNIX-STREAM"
  std::string link;      // "/etc/motd", "pipe:[4711]", "anon_inode:[eventfd]"
  struct statx stat{};
  kernel::FdInfo info;

  bool is(mode_t type) const { return (stat.stx_mode & S_IFMT) == type; }
  bool by_path() const { return link.starts_with('/'); }
  uint32_t flags() const;  // without O_CLOEXEC, which belongs to the descriptor
  bool cloexec() const;
  uint64_t device() const;        // as st_dev
  std::string described() const;  // "descriptor 6 (/etc/motd)"
};

// Descriptor `number` of the process behind `proc`, a descriptor of /proc/PID.
// Reads /proc and stats through its link, nothing else.
Probe probe_descriptor(int proc, pid_t pid, int number);

// The file behind a duplicate of ours that `proc_link` ("/proc/17/cwd") led to.
Probe probe_link(const std::string& proc_link, int duplicate);

// "process 17 (redis)"
std::string process_name(pid_t pid);

}  // namespace stasis::engine::files
