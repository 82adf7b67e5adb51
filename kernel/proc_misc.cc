#include "kernel/proc_misc.h"

#include <dirent.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "base/text.h"
#include "kernel/call.h"
#include "kernel/fs.h"
#include "kernel/proc_text.h"

namespace stasis::kernel {

std::vector<CgroupMembership> parse_cgroup(std::string_view text) {
  std::vector<CgroupMembership> lines;
  while (!text.empty()) {
    std::string_view path = text::next(text, '\n');
    CgroupMembership member;
    member.hierarchy = proc_number<int>("cgroup", "hierarchy", text::next(path, ':'));
    member.controllers = text::next(path, ':');
    if (!path.starts_with('/')) bad_field("cgroup", "path", path);
    member.path = path;
    lines.push_back(std::move(member));
  }
  return lines;
}

namespace {

// "signal/pid.17", "none/tid.3"
void parse_notify(std::string_view value, PosixTimer& timer) {
  std::string_view rest = value, how = text::next(rest, '/'), whom = text::next(rest, '.');
  if (how == "signal")
    timer.notify = SIGEV_SIGNAL;
  else if (how == "none")
    timer.notify = SIGEV_NONE;
  else if (how == "thread")
    timer.notify = SIGEV_THREAD;
  else
    bad_field("timers", "notify", value);
  if (whom == "tid")
    timer.notify |= SIGEV_THREAD_ID;
  else if (whom != "pid")
    bad_field("timers", "notify", value);
  timer.target = proc_number<pid_t>("timers", "notify", rest);
}

}  // namespace

std::vector<PosixTimer> parse_timers(std::string_view text) {
  constexpr std::string_view file = "timers";
  std::vector<PosixTimer> timers;
  unsigned complete = 0;
  while (!text.empty()) {
    std::string_view value = text::next(text, '\n');
    std::string_view key = text::next(value, ':');
    value = text::trim(value);
    if (key == "ID") {
      timers.emplace_back().id = proc_number<int>(file, key, value);
      continue;
    }
    if (timers.empty()) bad_field(file, "first line", key);
    PosixTimer& timer = timers.back();
    if (key == "signal") {
      timer.signal = proc_number<int>(file, key, text::next(value, '/'));
      timer.sigval = proc_number<uint64_t>(file, key, value, 16);
    } else if (key == "notify") {
      parse_notify(value, timer);
    } else if (key == "ClockID") {
      timer.clock = proc_number<int>(file, key, value);
    } else {
      continue;
    }
    ++complete;
  }
  if (complete != 3 * timers.size()) missing_field(file, "signal, notify or ClockID");
  return timers;
}

std::vector<uint64_t> parse_auxv(std::string_view bytes) {
  if (bytes.size() % (2 * sizeof(uint64_t)) != 0)
    throw Error("read", "/proc/PID/auxv").because("its size isn't a multiple of 16");
  std::vector<uint64_t> words(bytes.size() / sizeof(uint64_t));
  if (!words.empty()) memcpy(words.data(), bytes.data(), bytes.size());
  return words;
}

std::vector<pid_t> parse_children(std::string_view text) {
  std::vector<pid_t> pids;
  for (std::string_view word : text::words(text))
    pids.push_back(proc_number<pid_t>("task/TID/children", "pid", word));
  return pids;
}

uint64_t parse_namespace_link(std::string_view link, std::string_view kind) {
  std::string_view rest = link;
  if (text::next(rest, ':') != kind || !rest.starts_with('[') || !rest.ends_with(']'))
    bad_field("ns/" + std::string(kind), "link", link);
  return proc_number<uint64_t>("ns/" + std::string(kind), "link", rest.substr(1, rest.size() - 2));
}

std::string boot_id() {
  return std::string(text::trim(read_file("/proc/sys/kernel/random/boot_id")));
}

std::vector<int> numeric_entries(int dirfd, std::string_view name) {
  std::vector<int> numbers;
  alignas(dirent64) char buffer[8192];
  must(call(SYS_lseek, dirfd, 0, SEEK_SET), "rewind", name);
  for (;;) {
    long size = must(call(SYS_getdents64, dirfd, buffer, sizeof buffer), "list", name);
    if (size == 0) break;
    for (long at = 0; at < size;) {
      const auto* entry = reinterpret_cast<const dirent64*>(buffer + at);
      if (auto number = text::to_int<int>(entry->d_name)) numbers.push_back(*number);
      at += entry->d_reclen;
    }
  }
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

}  // namespace stasis::kernel
