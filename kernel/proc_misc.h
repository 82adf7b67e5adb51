// The small files of /proc/PID: cgroup, timers, auxv, children, ns links.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace stasis::kernel {

// /proc/PID/cgroup: "4:memory:/a/b", "1:name=systemd:/", "0::/a".
struct CgroupMembership {
  int hierarchy = 0;        // 0: cgroup v2
  std::string controllers;  // "cpu,cpuacct", "name=systemd"; empty for v2
  std::string path;         // as the reader's cgroup namespace sees it
};
std::vector<CgroupMembership> parse_cgroup(std::string_view text);

// /proc/PID/timers: the POSIX timers.
struct PosixTimer {
  int id = 0;
  int signal = 0;
  uint64_t sigval = 0;
  int notify = 0;    // SIGEV_SIGNAL, SIGEV_NONE, SIGEV_THREAD, SIGEV_THREAD_ID or'ed in
  pid_t target = 0;  // in the pid namespace of the proc mount read
  int clock = 0;
};
std::vector<PosixTimer> parse_timers(std::string_view text);

// /proc/PID/auxv: words as they are, AT_NULL pair included.
std::vector<uint64_t> parse_auxv(std::string_view bytes);

// /proc/PID/task/TID/children: pids by blanks.
std::vector<pid_t> parse_children(std::string_view text);

// A link of /proc/PID/ns: "mnt:[4026531840]" -> 4026531840. `kind` must match.
uint64_t parse_namespace_link(std::string_view link, std::string_view kind);

// Inode and device numbers are to be believed within one boot only.
std::string boot_id();

// The entries of a directory whose names are numbers, ascending: the
// threads of /proc/PID/task, the descriptors of /proc/PID/fd.
std::vector<int> numeric_entries(int dirfd, std::string_view name);

}  // namespace stasis::kernel
