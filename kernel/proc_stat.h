// /proc/PID/stat: one line, with a name in parentheses that may itself hold
// blanks and parentheses.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace stasis::kernel {

struct ProcStat {
  pid_t pid = 0;
  std::string comm;
  char state = 0;
  pid_t ppid = 0, pgrp = 0, session = 0;
  int tty_nr = 0;
  pid_t tpgid = 0;
  uint32_t flags = 0;  // PF_*
  int64_t priority = 0, nice = 0;
  unsigned num_threads = 0;
  uint64_t start_time = 0;  // clock ticks after boot, as the reader's time namespace sees it
  uint64_t start_code = 0, end_code = 0, start_stack = 0;
  int exit_signal = 0;
  unsigned rt_priority = 0, policy = 0;
  uint64_t start_data = 0, end_data = 0, start_brk = 0;
  uint64_t arg_start = 0, arg_end = 0, env_start = 0, env_end = 0;
  int exit_code = 0;  // as wait() reports it
};

ProcStat parse_stat(std::string_view text);
// Of a process or thread; nothing where it is gone.
std::optional<ProcStat> find_stat(pid_t pid);

}  // namespace stasis::kernel
