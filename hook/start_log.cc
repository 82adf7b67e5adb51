#include "hook/start_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>

#include "base/text.h"
#include "kernel/fs.h"

namespace stasis::hook {

namespace {

std::string log_path(std::string_view state_dir, const std::string& id) {
  return fmt::format("{}/{}/restore.log", state_dir, id);
}

constexpr std::string_view failure_mark = " Error: ";

}  // namespace

StartLog::StartLog(std::string_view state_dir, const std::string& id)
    : id_(id),
      file_(kernel::open(log_path(state_dir, id), O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW, 0600)) {
}

bool StartLog::begin(pid_t init) {
  std::string first = fmt::format("Process {} is to become container {}", init, id_);
  if (kernel::call(SYS_flock, file_.get(), LOCK_EX | LOCK_NB) >= 0) {
    kernel::must(kernel::call(SYS_ftruncate, file_.get(), 0), "begin", "restore.log");
    info("{}", first);
    return true;
  }
  kernel::must(kernel::call(SYS_lseek, file_.get(), 0, SEEK_SET), "read", "restore.log");
  std::string text = kernel::read_all(file_.get(), "restore.log");
  if (text.find(" " + first + "\n") != text.npos) return false;
  throw Error("start", "container " + id_)
      .because("another of this name is being started from a checkpoint")
      .hint("give it another name, or wait until that one is there");
}

void StartLog::let_go() { kernel::call(SYS_flock, file_.get(), LOCK_UN); }

void StartLog::write(LogLevel level, std::string_view line) {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  std::string_view mark = level == LogLevel::error     ? failure_mark
                          : level == LogLevel::warning ? " Warning: "
                                                       : " ";
  std::string text = fmt::format("{}.{:03}{}{}\n", now.tv_sec, now.tv_nsec / 1000000, mark, line);
  kernel::call(SYS_write, file_.get(), text.data(), text.size());
}

void StartLog::fail(int container_stderr, const std::string& what) {
  write(LogLevel::error, what);
  std::string line = "stasis: " + what + "\n";
  kernel::call(SYS_write, container_stderr, line.data(), line.size());
}

std::string wait_for_failure(std::string_view state_dir, const std::string& id) {
  std::string path = log_path(state_dir, id);
  long fd = kernel::call(SYS_openat, AT_FDCWD, path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return "";  // it was armed by nobody
  UniqueFd file(static_cast<int>(fd));
  long locked;
  do locked = kernel::call(SYS_flock, file.get(), LOCK_SH);
  while (locked == -EINTR);
  kernel::must(locked, "wait for", "the restore");
  std::string text = kernel::read_all(file.get(), path);
  size_t mark = text.find(failure_mark);
  if (mark == text.npos) return "";
  std::string_view rest = std::string_view(text).substr(mark + failure_mark.size());
  return std::string(text::next(rest, '\n'));
}

std::string one_line(const Error& error) {
  return fmt::format("{}{}{}", error.what(), error.remedy().empty() ? "" : "; ", error.remedy());
}

UniqueFd stderr_of(pid_t init) {
  UniqueFd process = kernel::pidfd_open(init);
  return UniqueFd(static_cast<int>(kernel::call(SYS_pidfd_getfd, process.get(), 2, 0)));
}

}  // namespace stasis::hook
