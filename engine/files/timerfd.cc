// Timer descriptors: fdinfo tells everything, times as what remains of them.
#include <fmt/core.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

#include "base/text.h"
#include "engine/files/dumper.h"
#include "engine/files/owner.h"
#include "engine/files/reopen.h"
#include "engine/files/restorer.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

namespace {

constexpr unsigned long set_ticks = _IOW('T', 0, uint64_t);  // TFD_IOC_SET_TICKS

bool claims(const Probe& probe) { return probe.link == "anon_inode:[timerfd]"; }

[[noreturn]] void unreadable(const Probe& probe, const std::string& field) {
  throw Error("read the timer of", probe.described()).because("fdinfo: " + field);
}

uint64_t number(const Probe& probe, const std::string& field, std::string_view text, int base) {
  auto value = text::to_int<uint64_t>(text::trim(text), base);
  if (!value) unreadable(probe, field);
  return *value;
}

std::string_view value_of(const Probe& probe, const std::string& field) {
  const std::string* value = probe.info.find(field);
  if (!value) unreadable(probe, field);
  return *value;
}

// "(seconds, nanoseconds)"
std::pair<uint64_t, uint64_t> time_of(const Probe& probe, const std::string& field) {
  std::string_view text = value_of(probe, field);
  if (!text.starts_with('(') || !text.ends_with(')')) unreadable(probe, field);
  text = text.substr(1, text.size() - 2);
  uint64_t seconds = number(probe, field, text::next(text, ','), 10);
  return {seconds, number(probe, field, text, 10)};
}

void dump(Dumper& dumper, const OpenFile& file, image::FileEntry& entry) {
  const Probe& probe = file.probe;
  image::TimerfdEntry& timer = *entry.mutable_tfd();
  timer.set_id(file.id);
  timer.set_flags(probe.flags());
  *timer.mutable_fown() = dump_owner(file.fd.get(), probe.flags(), dumper.plan().root);
  timer.set_clockid(
      static_cast<uint32_t>(number(probe, "clockid", value_of(probe, "clockid"), 10)));
  timer.set_ticks(number(probe, "ticks", value_of(probe, "ticks"), 10));
  std::string_view flags = value_of(probe, "settime");  // "settime flags: 01"
  text::next(flags, ':');
  timer.set_settime_flags(static_cast<uint32_t>(number(probe, "settime flags", flags, 8)));
  auto [seconds, nanoseconds] = time_of(probe, "it_value");
  timer.set_vsec(seconds);
  timer.set_vnsec(nanoseconds);
  auto [every_seconds, every_nanoseconds] = time_of(probe, "it_interval");
  timer.set_isec(every_seconds);
  timer.set_insec(every_nanoseconds);
}

timespec checked_time(uint64_t seconds, uint64_t nanoseconds) {
  constexpr uint64_t most = 1ULL << 34;  // centuries
  if (seconds > most || nanoseconds >= 1'000'000'000)
    throw Error("restore", "a timer descriptor").because("its time is out of bounds");
  return {static_cast<time_t>(seconds), static_cast<long>(nanoseconds)};
}

timespec after_now(uint32_t clock, timespec remaining) {
  timespec now{};
  kernel::must(kernel::call(SYS_clock_gettime, clock, &now), "read", "a clock");
  now.tv_sec += remaining.tv_sec;
  now.tv_nsec += remaining.tv_nsec;
  if (now.tv_nsec >= 1'000'000'000) {
    now.tv_nsec -= 1'000'000'000;
    ++now.tv_sec;
  }
  return now;
}

UniqueFd make(Restorer& restorer, const image::FileEntry& entry) {
  const image::TimerfdEntry& timer = entry.tfd();
  const char* name = "a timer descriptor";
  long made = kernel::call(SYS_timerfd_create, timer.clockid(), TFD_CLOEXEC);
  UniqueFd fd(static_cast<int>(kernel::must(made, "make", name)));
  itimerspec time{checked_time(timer.isec(), timer.insec()),
                  checked_time(timer.vsec(), timer.vnsec())};
  bool armed = time.it_value.tv_sec != 0 || time.it_value.tv_nsec != 0;
  if (armed && (timer.settime_flags() & TFD_TIMER_ABSTIME))
    time.it_value = after_now(timer.clockid(), time.it_value);
  kernel::must(kernel::call(SYS_timerfd_settime, fd.get(), timer.settime_flags(), &time, nullptr),
               "set", name);
  uint64_t ticks = timer.ticks();
  if (ticks != 0)
    kernel::must(kernel::call(SYS_ioctl, fd.get(), set_ticks, &ticks), "set the expirations of",
                 name);
  set_status_flags(fd.get(), timer.flags());
  restorer.restore_owner(fd.get(), timer.fown());
  return fd;
}

}  // namespace

const FileKind timerfd_kind = {"a timer descriptor", image::TIMERFD, claims, nullptr, dump, make};

}  // namespace stasis::engine::files
