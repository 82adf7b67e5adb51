#include "hook/watcher.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/report.h"
#include "kernel/fs.h"
#include "kernel/proc_misc.h"

namespace stasis::hook {

namespace {

constexpr size_t longest_report = 16384;

// All that we open ourselves is close-on-exec; what isn't came from the caller.
void close_foreign() {
  UniqueFd list = kernel::open("/proc/self/fd", O_RDONLY | O_DIRECTORY);
  for (int fd : kernel::numeric_entries(list.get(), "/proc/self/fd")) {
    long flags = kernel::call(SYS_fcntl, fd, F_GETFD);
    if (fd > 2 && flags >= 0 && !(flags & FD_CLOEXEC)) kernel::call(SYS_close, fd);
  }
}

void leave_caller() {
  kernel::call(SYS_setsid);
  kernel::call(SYS_chdir, "/");
  kernel::call(SYS_prctl, PR_SET_NAME, "stasis-watch", 0, 0, 0);
  // A helper of ours will be in the container's pid namespace.
  kernel::call(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
  close_foreign();
  UniqueFd null = kernel::open("/dev/null", O_RDWR);
  for (int fd = 0; fd <= 2; ++fd)
    kernel::must(kernel::call(SYS_dup3, null.get(), fd, 0), "leave", "the hook's caller");
}

[[noreturn]] void work_there(UniqueFd channel,
                             const std::function<void(const std::function<void()>&)>& work) {
  int code = 1;
  try {
    leave_caller();
    work([&] {
      kernel::must(kernel::call(SYS_write, channel.get(), "+", 1), "report", "to the hook");
      channel.reset();
    });
    code = 0;
  } catch (const Error& error) {
    std::string report = to_report(error);
    if (channel) kernel::call(SYS_write, channel.get(), report.data(), report.size());
  } catch (const std::exception& error) {
    std::string report = to_report(Error("watch", "the container").because(error.what()));
    if (channel) kernel::call(SYS_write, channel.get(), report.data(), report.size());
  }
  _exit(code);
}

}  // namespace

void leave_behind(const std::function<void(const std::function<void()>& ready)>& work) {
  int ends[2];
  kernel::must(kernel::call(SYS_pipe2, ends, O_CLOEXEC), "make", "a pipe");
  UniqueFd ours(ends[0]), theirs(ends[1]);
  // The C library's, as the new process has threads later.
  pid_t pid = ::fork();
  if (pid < 0) throw Error("make", "a process that watches the container").with_errno(errno);
  if (pid == 0) {
    ours.reset();
    work_there(std::move(theirs), work);
  }
  theirs.reset();
  std::string report = kernel::read_all(ours.get(), "a report", longest_report);
  if (report == "+") return;
  if (report.empty())
    throw Error("watch", "the container").because("the process that is to do it has ended");
  throw from_report(report);
}

}  // namespace stasis::hook
