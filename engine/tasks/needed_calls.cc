#include "engine/tasks/needed_calls.h"

#include <fmt/format.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/error.h"
#include "engine/image/checkpoint.h"
#include "kernel/call.h"

namespace stasis::engine::needed_calls {

namespace {

using image::Checkpoint;
constexpr uint64_t none = ~uint64_t{0};

// `arguments` are senseless, so that the call does nothing where there is one.
struct Call {
  long number;
  const char* name;
  const char* what;
  std::array<uint64_t, 4> arguments;
  bool (*needed)(const Checkpoint&);
};

bool always(const Checkpoint&) { return true; }

template <image::FdTypes Type>
bool open_file(const Checkpoint& checkpoint) {
  return std::ranges::any_of(checkpoint.files,
                             [](const auto& file) { return file.second.type() == Type; });
}

bool memfd(const Checkpoint& checkpoint) { return !checkpoint.memfds.empty(); }
bool segment(const Checkpoint& checkpoint) { return !checkpoint.segments.empty(); }
bool semaphore(const Checkpoint& checkpoint) { return !checkpoint.semaphores.empty(); }
bool queue(const Checkpoint& checkpoint) { return !checkpoint.queues.empty(); }
bool filter(const Checkpoint& checkpoint) { return checkpoint.seccomp.has_value(); }

bool timer(const Checkpoint& checkpoint) {
  return std::ranges::any_of(checkpoint.tasks, [](const image::TaskImage& task) {
    return task.core().timers().posix_size() > 0;
  });
}

bool rseq(const Checkpoint& checkpoint) {
  return std::ranges::any_of(checkpoint.tasks, [](const image::TaskImage& task) {
    return std::ranges::any_of(task.threads, [](const image::CoreEntry& thread) {
      return thread.thread_core().has_rseq_entry();
    });
  });
}

constexpr auto calls = std::to_array<Call>({
    {SYS_pidfd_open, "pidfd_open", "every process", {none, none}, always},
    {SYS_pidfd_getfd, "pidfd_getfd", "every process", {none, none, none}, always},
    {SYS_execveat, "execveat", "every process", {none, 0, 0, 0}, always},
    {SYS_process_vm_writev, "process_vm_writev", "memory", {none, 0, 0, 0}, always},
    {SYS_memfd_create, "memfd_create", "a memfd", {0, none}, memfd},
    {SYS_shmget, "shmget", "System V shared memory", {1, none, 0}, segment},
    {SYS_semget, "semget", "System V semaphores", {1, none, 0}, semaphore},
    {SYS_msgget, "msgget", "a System V message queue", {1, 0}, queue},
    {SYS_seccomp, "seccomp", "a seccomp filter", {none, none, 0}, filter},
    {SYS_rseq, "rseq", "a thread's restartable sequences", {0, 0, none}, rseq},
    {SYS_timer_create, "timer_create", "a POSIX timer", {none, 0, 0}, timer},
    {SYS_eventfd2, "eventfd2", "an eventfd", {0, none}, open_file<image::EVENTFD>},
    {SYS_epoll_create1, "epoll_create1", "an epoll", {none}, open_file<image::EVENTPOLL>},
    {SYS_inotify_init1, "inotify_init1", "an inotify", {none}, open_file<image::INOTIFY>},
    {SYS_fanotify_init, "fanotify_init", "a fanotify", {none, none}, open_file<image::FANOTIFY>},
    {SYS_signalfd4, "signalfd4", "a signalfd", {none, 0, 8, none}, open_file<image::SIGNALFD>},
    {SYS_timerfd_create, "timerfd_create", "a timerfd", {none, none}, open_file<image::TIMERFD>},
});

}  // namespace

std::string missing(const Checkpoint& checkpoint) {
  std::string list;
  for (const Call& call : calls) {
    const auto& a = call.arguments;
    if (call.needed(checkpoint) && kernel::call(call.number, a[0], a[1], a[2], a[3]) == -ENOSYS)
      list += fmt::format("{}{} ({})", list.empty() ? "" : ", ", call.name, call.what);
  }
  return list;
}

void check(const Checkpoint& checkpoint) {
  if (std::string lacks = missing(checkpoint); !lacks.empty())
    throw Error("restore", "the container")
        .because("this kernel lacks system calls that it needs: " + lacks)
        .hint("start it on a kernel that has them");
}

}  // namespace stasis::engine::needed_calls
