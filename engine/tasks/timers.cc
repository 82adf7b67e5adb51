#include "engine/tasks/timers.h"

#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include <algorithm>

#ifndef PR_TIMER_CREATE_RESTORE_IDS
#define PR_TIMER_CREATE_RESTORE_IDS 77
#endif

namespace stasis::engine {

namespace {

constexpr int32_t most_skipped_ids = 1024;
constexpr int kinds[3] = {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF};

void store_interval(const itimerval& value, image::ItimerEntry* entry) {
  entry->set_isec(static_cast<uint64_t>(value.it_interval.tv_sec));
  entry->set_iusec(static_cast<uint64_t>(value.it_interval.tv_usec));
  entry->set_vsec(static_cast<uint64_t>(value.it_value.tv_sec));
  entry->set_vusec(static_cast<uint64_t>(value.it_value.tv_usec));
}

void restore_interval(int kind, const image::ItimerEntry& entry, SyscallBatch& batch) {
  itimerval value{};
  value.it_interval.tv_sec = static_cast<time_t>(entry.isec());
  value.it_interval.tv_usec = static_cast<suseconds_t>(entry.iusec());
  value.it_value.tv_sec = static_cast<time_t>(entry.vsec());
  value.it_value.tv_usec = static_cast<suseconds_t>(entry.vusec());
  if (entry.vsec() == 0 && entry.vusec() == 0) {
    if (entry.isec() == 0 && entry.iusec() == 0) return;
    // A periodic timer that has fired stands still until its signal is
    // delivered. The signal is pending: another one now merges with it.
    value.it_value.tv_usec = 1;
  }
  batch.must("set an interval timer of", SYS_setitimer, kind, batch.object(value), nullptr);
}

}  // namespace

Timers::Timers(SyscallBatch& batch, const std::vector<kernel::PosixTimer>& posix) {
  for (int i = 0; i < 3; ++i) {
    interval_[i] = batch.space(sizeof(itimerval));
    batch.must("read an interval timer of", SYS_getitimer, kinds[i], interval_[i]);
  }
  for (const kernel::PosixTimer& timer : posix) {
    SyscallBatch::Data spec = batch.space(sizeof(itimerspec));
    batch.must("read a POSIX timer of", SYS_timer_gettime, timer.id, spec);
    posix_.push_back({timer, spec, batch.may(SYS_timer_getoverrun, timer.id)});
  }
}

void Timers::store(const SyscallBatch& batch, image::TaskTimersEntry* timers) const {
  store_interval(batch.view<itimerval>(interval_[0]), timers->mutable_real());
  store_interval(batch.view<itimerval>(interval_[1]), timers->mutable_virt());
  store_interval(batch.view<itimerval>(interval_[2]), timers->mutable_prof());
  for (const Posix& p : posix_) {
    auto spec = batch.view<itimerspec>(p.spec);
    image::PosixTimerEntry* entry = timers->add_posix();
    entry->set_it_id(static_cast<uint32_t>(p.timer.id));
    entry->set_clock_id(static_cast<uint32_t>(p.timer.clock));
    entry->set_si_signo(static_cast<uint32_t>(p.timer.signal));
    entry->set_it_sigev_notify(static_cast<uint32_t>(p.timer.notify));
    entry->set_sival_ptr(p.timer.sigval);
    entry->set_overrun(static_cast<uint32_t>(std::max(0L, batch.result(p.overrun))));
    entry->set_isec(static_cast<uint64_t>(spec.it_interval.tv_sec));
    entry->set_insec(static_cast<uint64_t>(spec.it_interval.tv_nsec));
    entry->set_vsec(static_cast<uint64_t>(spec.it_value.tv_sec));
    entry->set_vnsec(static_cast<uint64_t>(spec.it_value.tv_nsec));
    if (p.timer.notify & SIGEV_THREAD_ID) entry->set_notify_thread_id(p.timer.target);
  }
}

void restore_timers(const image::TaskTimersEntry& timers, SyscallBatch& batch) {
  restore_interval(ITIMER_REAL, timers.real(), batch);
  restore_interval(ITIMER_VIRTUAL, timers.virt(), batch);
  restore_interval(ITIMER_PROF, timers.prof(), batch);
  if (timers.posix_size() == 0) return;

  // The kernel gives the id that we name where it can (6.15 and newer);
  // elsewhere it counts up from 0, so that ids between are made and deleted.
  batch.may(SYS_prctl, PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0);
  int32_t next = 0;
  std::vector<image::PosixTimerEntry> sorted(timers.posix().begin(), timers.posix().end());
  std::sort(sorted.begin(), sorted.end(),
            [](const auto& a, const auto& b) { return a.it_id() < b.it_id(); });
  for (const image::PosixTimerEntry& entry : sorted) {
    for (; next < static_cast<int32_t>(entry.it_id()) && next < most_skipped_ids; ++next) {
      sigevent silent{};
      silent.sigev_notify = SIGEV_NONE;
      batch.must("make a POSIX timer of", SYS_timer_create, CLOCK_MONOTONIC, batch.object(silent),
                 batch.object(next));
      batch.must("delete a POSIX timer of", SYS_timer_delete, next);
    }
    next = static_cast<int32_t>(entry.it_id()) + 1;
    sigevent event{};
    event.sigev_value.sival_ptr = reinterpret_cast<void*>(entry.sival_ptr());
    event.sigev_signo = static_cast<int>(entry.si_signo());
    event.sigev_notify = static_cast<int>(entry.it_sigev_notify());
    if (entry.has_notify_thread_id()) event._sigev_un._tid = entry.notify_thread_id();
    int32_t id = static_cast<int32_t>(entry.it_id());
    batch.must("make a POSIX timer of", SYS_timer_create, static_cast<int32_t>(entry.clock_id()),
               batch.object(event), batch.object(id));
    itimerspec spec{};
    spec.it_interval = {static_cast<time_t>(entry.isec()), static_cast<long>(entry.insec())};
    spec.it_value = {static_cast<time_t>(entry.vsec()), static_cast<long>(entry.vnsec())};
    batch.must("set a POSIX timer of", SYS_timer_settime, id, 0, batch.object(spec), nullptr);
  }
  batch.may(SYS_prctl, PR_TIMER_CREATE_RESTORE_IDS, 0, 0, 0, 0);
}

}  // namespace stasis::engine
