#include "engine/namespaces/timens.h"

#include <fmt/core.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#include <cerrno>
#include <cstdio>

#include "base/text.h"
#include "kernel/fs.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

namespace stasis::engine::timens {
namespace {

constexpr long second = 1'000'000'000;

timespec normal(int64_t seconds, int64_t nanoseconds) {
  seconds += nanoseconds / second;
  nanoseconds %= second;
  if (nanoseconds < 0) {
    nanoseconds += second;
    --seconds;
  }
  return {seconds, nanoseconds};
}

timespec plus(timespec a, timespec b) { return normal(a.tv_sec + b.tv_sec, a.tv_nsec + b.tv_nsec); }
timespec minus(timespec a, timespec b) {
  return normal(a.tv_sec - b.tv_sec, a.tv_nsec - b.tv_nsec);
}

timespec now(clockid_t clock) {
  timespec time{};
  kernel::must(kernel::call(SYS_clock_gettime, clock, &time), "read", "the clock");
  return time;
}

Offsets offsets_of(const std::string& process) {
  // Missing without CONFIG_TIME_NS: then nobody's clocks differ.
  std::string path = "/proc/" + process + "/timens_offsets";
  if (kernel::call(SYS_faccessat, AT_FDCWD, path.c_str(), F_OK) == -ENOENT) return {};
  return parse_offsets(kernel::read_file(path));
}

void set(image::Timespec& to, timespec value) {
  to.set_tv_sec(static_cast<uint64_t>(value.tv_sec));
  to.set_tv_nsec(static_cast<uint64_t>(value.tv_nsec));
}

timespec get(const image::Timespec& from) {
  return {static_cast<time_t>(from.tv_sec()), static_cast<long>(from.tv_nsec())};
}

void write_offsets(const image::TimensEntry& clocks, const Offsets& ours,
                   const std::string& process) {
  // Offsets count from the machine's clocks, whatever namespace we are in.
  auto offset = [](const image::Timespec& wanted, clockid_t clock, timespec own) {
    return minus(get(wanted), minus(now(clock), own));
  };
  timespec monotonic = offset(clocks.monotonic(), CLOCK_MONOTONIC, ours.monotonic);
  timespec boottime = offset(clocks.boottime(), CLOCK_BOOTTIME, ours.boottime);
  kernel::write_file(
      "/proc/" + process + "/timens_offsets",
      fmt::format("{} {} {}\n{} {} {}\n", CLOCK_MONOTONIC, monotonic.tv_sec, monotonic.tv_nsec,
                  CLOCK_BOOTTIME, boottime.tv_sec, boottime.tv_nsec));
}

}  // namespace

Offsets parse_offsets(std::string_view text) {
  Offsets offsets;
  bool monotonic = false, boottime = false;
  while (!text.empty()) {
    std::string_view line = text::next(text, '\n');
    auto words = text::words(line);
    auto bad = [&]() {
      return Error("read", "/proc/PID/timens_offsets")
          .because("unexpected line \"" + std::string(line) + "\"");
    };
    if (words.size() != 3) throw bad();
    auto seconds = text::to_int<int64_t>(words[1]), nanoseconds = text::to_int<int64_t>(words[2]);
    if (!seconds || !nanoseconds) throw bad();
    if (words[0] == "monotonic" || words[0] == "1") {
      offsets.monotonic = {*seconds, *nanoseconds};
      monotonic = true;
    } else if (words[0] == "boottime" || words[0] == "7") {
      offsets.boottime = {*seconds, *nanoseconds};
      boottime = true;
    }
  }
  if (!monotonic || !boottime)
    throw Error("read", "/proc/PID/timens_offsets").because("a clock is missing");
  return offsets;
}

image::TimensEntry read(pid_t pid) {
  const Offsets ours = offsets_of("self"), theirs = offsets_of(std::to_string(pid));
  image::TimensEntry entry;
  set(*entry.mutable_monotonic(),
      plus(minus(now(CLOCK_MONOTONIC), ours.monotonic), theirs.monotonic));
  set(*entry.mutable_boottime(), plus(minus(now(CLOCK_BOOTTIME), ours.boottime), theirs.boottime));
  return entry;
}

void prepare(const image::Checkpoint& checkpoint) {
  if (!checkpoint.timens) return;
  const image::TimensEntry& clocks = *checkpoint.timens;
  const Offsets ours = offsets_of("self");
  long made = kernel::call(SYS_unshare, CLONE_NEWTIME);
  if (made == -EINVAL) {
    throw Error("make", "a time namespace")
        .because("this kernel has none, and monotonic clocks would jump")
        .hint("a kernel with CONFIG_TIME_NS (Linux 5.6 and newer) is needed");
  }
  kernel::must(made, "make", "a time namespace");
  write_offsets(clocks, ours, "self");
}

void set_clocks(const image::Checkpoint& checkpoint, pid_t pid) {
  if (!checkpoint.timens) return;
  try {
    write_offsets(*checkpoint.timens, offsets_of("self"), std::to_string(pid));
  } catch (const Error& error) {
    if (error.code() != EACCES) throw;  // somebody is in it
  }
}

bool entered_by_exec() {
  utsname kernel{};
  uname(&kernel);
  unsigned major = 0, minor = 0;
  if (sscanf(kernel.release, "%u.%u", &major, &minor) != 2) return false;
  return major > 6 || (major == 6 && minor >= 3);
}

double ahead_of(const image::Checkpoint& checkpoint, pid_t pid) {
  if (!checkpoint.timens) return 0;
  const char* ours = "/proc/self/ns/time";
  // The offsets of a process are those of its children's namespace.
  bool same = kernel::call(SYS_faccessat, AT_FDCWD, ours, F_OK) == -ENOENT ||
              kernel::read_link(ours) == kernel::read_link(fmt::format("/proc/{}/ns/time", pid));
  timespec clock = same ? now(CLOCK_MONOTONIC) : get(read(pid).monotonic());
  timespec ahead = minus(clock, get(checkpoint.timens->monotonic()));
  return static_cast<double>(ahead.tv_sec) + static_cast<double>(ahead.tv_nsec) / second;
}

void enter(const image::Checkpoint& checkpoint) {
  if (!checkpoint.timens) return;
  prepare(checkpoint);
  UniqueFd made = kernel::open("/proc/self/ns/time_for_children", O_RDONLY);
  kernel::must(kernel::call(SYS_setns, made.get(), CLONE_NEWTIME), "enter", "a time namespace");
}

}  // namespace stasis::engine::timens
