#include "engine/tasks/freezer.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <memory>

#include "base/text.h"
#include "kernel/directories.h"
#include "kernel/fs.h"

namespace stasis::engine {

namespace {

constexpr auto patience = std::chrono::seconds(10);
constexpr const char* v1_state = "/freezer.state";
constexpr const char* v2_state = "/cgroup.freeze";
constexpr const char* v2_events = "/cgroup.events";

// Runs in a process of its own and touches nothing but these two descriptors:
// when our end of the pipe closes without a word, the engine is dead.
[[noreturn]] void guard(int pipe, int state, const char* thaw, size_t length) {
  setsid();
  char word;
  ssize_t n = 0;
  do n = read(pipe, &word, 1);
  while (n < 0 && errno == EINTR);
  if (n == 0 && write(state, thaw, length) < 0) _exit(1);
  _exit(0);
}

}  // namespace

Freezer::Freezer(const std::string& directory) : directory_(directory) {
  if (directory_.empty()) return;
  if (kernel::exists(directory_ + v1_state))
    kind_ = Kind::v1;
  else if (kernel::exists(directory_ + v2_state))
    kind_ = Kind::v2;
  else
    return;
  found_frozen_ = frozen_ = is_frozen();
}

Freezer::~Freezer() {
  try {
    put_back();
  } catch (const Error&) {
    // The cgroup is gone with its tasks.
  }
  dismiss_guard();
}

bool Freezer::is_frozen() const {
  if (kind_ == Kind::v1) return text::trim(kernel::read_file(directory_ + v1_state)) == "FROZEN";
  return kernel::read_file(directory_ + v2_events).find("frozen 1") != std::string::npos;
}

void Freezer::set(bool frozen) {
  if (kind_ == Kind::v1)
    kernel::write_file(directory_ + v1_state, frozen ? "FROZEN" : "THAWED");
  else
    kernel::write_file(directory_ + v2_state, frozen ? "1" : "0");
  frozen_ = frozen;
}

void Freezer::freeze() {
  if (frozen_) return;
  stand_guard();
  frozen_ = true;  // from here on there is something to undo
  set(true);
  auto deadline = std::chrono::steady_clock::now() + patience;
  UniqueFd events;
  if (kind_ == Kind::v2) events = kernel::open(directory_ + v2_events, O_RDONLY);
  while (!is_frozen()) {
    if (std::chrono::steady_clock::now() > deadline)
      throw Error("freeze the cgroup", directory_)
          .because("a task in it did not stop within 10 s")
          .hint(
              "look for processes in state D (uninterruptible sleep), for instance on a dead "
              "network file system");
    if (kind_ == Kind::v2) {
      // Changes of cgroup.events are announced by POLLPRI.
      pollfd change{events.get(), POLLPRI, 0};
      timespec limit{0, 1000000};
      kernel::call(SYS_ppoll, &change, 1, &limit, nullptr, 8);
      continue;
    }
    // v1 announces nothing; freezing takes 0.1-0.2 ms.
    timespec pause{0, 50000};
    kernel::call(SYS_nanosleep, &pause, nullptr);
  }
}

void Freezer::thaw() {
  if (!frozen_) return;
  set(false);
  dismiss_guard();
}

void Freezer::put_back() {
  if (frozen_ != found_frozen_) set(found_frozen_);
}

void Freezer::stand_guard() {
  int ends[2];
  kernel::must(kernel::call(SYS_pipe2, ends, O_CLOEXEC), "make a pipe");
  UniqueFd reading(ends[0]), writing(ends[1]);
  UniqueFd state = kernel::open(directory_ + (kind_ == Kind::v1 ? v1_state : v2_state), O_WRONLY);
  pid_t pid = fork();
  if (pid < 0) throw Error("start the guard process of the freezer", "").with_errno(errno);
  if (pid == 0) {
    writing.reset();
    kind_ == Kind::v1 ? guard(reading.get(), state.get(), "THAWED", 6)
                      : guard(reading.get(), state.get(), "0", 1);
  }
  guard_pid_ = pid;
  guard_ = std::move(writing);
}

void Freezer::dismiss_guard() {
  if (guard_pid_ == 0) return;
  kernel::call(SYS_write, guard_.get(), "k", 1);
  guard_.reset();
  kernel::call(SYS_wait4, guard_pid_, nullptr, 0, nullptr);
  guard_pid_ = 0;
}

std::vector<pid_t> Freezer::processes(const std::string& directory) {
  std::vector<pid_t> found;
  std::string text = kernel::read_file(directory + "/cgroup.procs");
  for (std::string_view word : text::words(text))
    if (auto pid = text::to_int<pid_t>(word)) found.push_back(*pid);
  std::unique_ptr<DIR, int (*)(DIR*)> entries(opendir(directory.c_str()), closedir);
  if (!entries) throw Error("list", directory).with_errno(errno);
  while (dirent* entry = readdir(entries.get())) {
    if (entry->d_type != DT_DIR || entry->d_name[0] == '.') continue;
    std::vector<pid_t> below = processes(directory + "/" + entry->d_name);
    found.insert(found.end(), below.begin(), below.end());
  }
  return found;
}

}  // namespace stasis::engine
