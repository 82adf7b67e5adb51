#include "kernel/proc_stat.h"

#include <cerrno>

#include "kernel/fs.h"
#include "kernel/proc_text.h"

namespace stasis::kernel {
namespace {

constexpr std::string_view file = "stat";

// The fields behind the name, by proc(5)'s numbers: 3 is the state.
class Fields {
 public:
  explicit Fields(std::string_view rest) : words_(text::words(rest)) {
    if (words_.size() < 50)
      throw Error("read", "/proc/PID/stat")
          .because("has " + std::to_string(words_.size() + 2) + " fields instead of 52");
  }
  template <typename Int>
  Int get(size_t number) const {
    return proc_number<Int>(file, "field " + std::to_string(number), words_[number - 3]);
  }
  std::string_view text(size_t number) const { return words_[number - 3]; }

 private:
  std::vector<std::string_view> words_;
};

}  // namespace

ProcStat parse_stat(std::string_view text) {
  size_t open = text.find(" ("), close = text.rfind(") ");
  if (open == std::string_view::npos || close == std::string_view::npos || close < open + 2)
    bad_field(file, "name in parentheses", text);
  ProcStat stat;
  stat.pid = proc_number<pid_t>(file, "pid", text.substr(0, open));
  stat.comm = text.substr(open + 2, close - open - 2);
  const Fields f(text.substr(close + 2));
  stat.state = f.text(3).front();
  stat.ppid = f.get<pid_t>(4);
  stat.pgrp = f.get<pid_t>(5);
  stat.session = f.get<pid_t>(6);
  stat.tty_nr = f.get<int>(7);
  stat.tpgid = f.get<pid_t>(8);
  stat.flags = f.get<uint32_t>(9);
  stat.priority = f.get<int64_t>(18);
  stat.nice = f.get<int64_t>(19);
  stat.num_threads = f.get<unsigned>(20);
  stat.start_time = f.get<uint64_t>(22);
  stat.start_code = f.get<uint64_t>(26);
  stat.end_code = f.get<uint64_t>(27);
  stat.start_stack = f.get<uint64_t>(28);
  stat.exit_signal = f.get<int>(38);
  stat.rt_priority = f.get<unsigned>(40);
  stat.policy = f.get<unsigned>(41);
  stat.start_data = f.get<uint64_t>(45);
  stat.end_data = f.get<uint64_t>(46);
  stat.start_brk = f.get<uint64_t>(47);
  stat.arg_start = f.get<uint64_t>(48);
  stat.arg_end = f.get<uint64_t>(49);
  stat.env_start = f.get<uint64_t>(50);
  stat.env_end = f.get<uint64_t>(51);
  stat.exit_code = f.get<int>(52);
  return stat;
}

std::optional<ProcStat> find_stat(pid_t pid) {
  try {
    return parse_stat(read_file("/proc/" + std::to_string(pid) + "/stat"));
  } catch (const Error& error) {
    if (error.code() == ENOENT || error.code() == ESRCH) return std::nullopt;
    throw;
  }
}

}  // namespace stasis::kernel
