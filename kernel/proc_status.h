// /proc/PID/status and /proc/PID/task/TID/status.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace stasis::kernel {

struct ProcStatus {
  std::string name;             // comm, unescaped
  char state = 0;               // R S D T t Z X ...
  std::optional<mode_t> umask;  // a zombie has none
  pid_t tgid = 0, pid = 0, ppid = 0, tracer = 0;
  std::array<uint32_t, 4> uid{}, gid{};  // real, effective, saved, fs
  std::vector<uint32_t> groups;
  // The same task in every pid namespace from the reader's down to its own.
  std::vector<pid_t> ns_tgid, ns_pid, ns_pgid, ns_sid;
  unsigned fd_size = 0;
  unsigned threads = 0;
  // Sets of signals: bit N-1 is signal N.
  uint64_t pending = 0, shared_pending = 0, blocked = 0, ignored = 0, caught = 0;
  uint64_t cap_inheritable = 0, cap_permitted = 0, cap_effective = 0, cap_bounding = 0,
           cap_ambient = 0;
  bool no_new_privs = false;
  unsigned seccomp = 0;                     // SECCOMP_MODE_*
  std::optional<unsigned> seccomp_filters;  // Linux 5.9 and newer
  std::optional<bool> thp_enabled;          // a task without memory has none
  std::optional<uint64_t> locked_kib;       // of its memory; likewise
  bool kernel_thread = false;               // always false before Linux 6.6
};

// Unknown lines are skipped. Throws Error naming the missing or broken field.
ProcStatus parse_status(std::string_view text);

}  // namespace stasis::kernel
