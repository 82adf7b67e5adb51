#include "hook/readiness.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <re2/re2.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <memory>

#include "base/text.h"
#include "kernel/directories.h"
#include "kernel/fs.h"
#include "oci/config.h"

namespace stasis::hook {

namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

// Inotify tells nothing of what is mounted over a directory.
constexpr milliseconds file_interval{1000};
// Nothing tells when a socket begins to listen. Two small files are read.
constexpr milliseconds listen_interval{50};
constexpr milliseconds longest{60000};
constexpr size_t longest_regex = 1000;

Error refuse(const std::string& text, const std::string& cause) {
  return Error("use dev.stasis.snapshot-when", text)
      .because(cause)
      .hint("one of delay=5s, file=/PATH, listen=PORT, log=REGEX, signal");
}

milliseconds parse_delay(const std::string& text, std::string_view value) {
  constexpr int64_t longest_delay = 86'400'000;
  int64_t unit = 1000;
  if (value.ends_with("ms")) {
    unit = 1;
    value.remove_suffix(2);
  } else if (value.ends_with('s') || value.ends_with('m')) {
    unit = value.ends_with('m') ? 60'000 : 1000;
    value.remove_suffix(1);
  }
  auto number = text::to_int<int64_t>(value);
  if (!number || *number < 0 || *number > longest_delay / unit)
    throw refuse(text, "it is no time of a day at most");
  return milliseconds(*number * unit);
}

// Polls `source` (or nothing, -1) and the process. False: it has ended.
bool sleep_on(int pidfd, int source, milliseconds limit) {
  pollfd polled[2] = {{pidfd, POLLIN, 0}, {source, POLLIN, 0}};
  timespec time{limit.count() / 1000, limit.count() % 1000 * 1'000'000};
  kernel::call(SYS_ppoll, polled, source < 0 ? 1 : 2, &time, nullptr, 0);
  return polled[0].revents == 0;
}

bool newer(const struct statx& file, const timespec& started) {
  int64_t second = started.tv_sec, nanosecond = started.tv_nsec;
  if (file.stx_ctime.tv_sec != second) return file.stx_ctime.tv_sec > second;
  return file.stx_ctime.tv_nsec >= nanosecond;
}

// Looks for a file in the container's root, and tells when something changes
// in the last directory on the way that exists.
class FileWatch {
 public:
  FileWatch(pid_t init, std::string path)
      : root_(kernel::open(fmt::format("/proc/{}/root", init), O_PATH)), path_(std::move(path)) {}

  bool there(const timespec& started) {
    // Before the look, or what happens between would be missed.
    watch();
    UniqueFd file = find(path_);
    return file && newer(kernel::stat_fd(file.get()), started);
  }
  int events() const { return events_.get(); }

 private:
  UniqueFd find(const std::string& path) const {
    long fd =
        kernel::try_open_in(root_.get(), path, O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
    return UniqueFd(fd < 0 ? -1 : static_cast<int>(fd));
  }
  void watch() {
    long made = kernel::call(SYS_inotify_init1, IN_CLOEXEC | IN_NONBLOCK);
    events_ = UniqueFd(static_cast<int>(kernel::must(made, "watch", path_)));
    constexpr uint32_t changes =
        IN_CREATE | IN_MOVED_TO | IN_CLOSE_WRITE | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF;
    std::string directory = path_;
    UniqueFd found;
    do {
      directory.resize(std::max<size_t>(directory.rfind('/'), 1));
      found = find(directory);
    } while (!found && directory.size() > 1);
    if (!found) return;  // the interval will do
    std::string own = fmt::format("/proc/self/fd/{}", found.get());
    kernel::call(SYS_inotify_add_watch, events_.get(), own.c_str(), changes);
  }

  UniqueFd root_;
  std::string path_;
  UniqueFd events_;
};

bool repeat(int pidfd, milliseconds interval, const std::function<bool()>& ready) {
  while (!ready())
    if (!sleep_on(pidfd, -1, interval)) return false;
  return true;
}

bool listens(pid_t init, unsigned port) {
  for (const char* table : {"tcp", "tcp6"}) {
    std::string path = fmt::format("/proc/{}/net/{}", init, table);
    if (!kernel::exists(path)) continue;
    if (hook::listens(kernel::read_file(path), port)) return true;
  }
  return false;
}

bool wait_for_file(int pidfd, pid_t init, const std::string& path, const timespec& started) {
  FileWatch watch(init, path);
  while (!watch.there(started))
    if (!sleep_on(pidfd, watch.events(), file_interval)) return false;
  return true;
}

// Matching takes time in proportion to the text, whatever the expression.
std::unique_ptr<re2::RE2> compile(const std::string& regex) {
  constexpr int64_t most_memory = 4 << 20;
  re2::RE2::Options options(re2::RE2::Quiet);
  options.set_max_mem(most_memory);
  return std::make_unique<re2::RE2>(regex, options);
}

// Inotify tells nothing of what another machine writes to a shared file system.
bool wait_for_line(int pidfd, ContainerLog& log, const std::string& regex) {
  auto expression = compile(regex);
  auto matches = [&](std::string_view line) {
    return re2::RE2::PartialMatch(re2::StringPiece(line.data(), line.size()), *expression);
  };
  while (!log.said(matches))
    if (!sleep_on(pidfd, log.events(), file_interval)) return false;
  return true;
}

bool wait_for_signal(int pidfd, const std::string& place) {
  uint64_t set = uint64_t{1} << (SIGUSR1 - 1);
  kernel::must(kernel::call(SYS_rt_sigprocmask, SIG_BLOCK, &set, nullptr, sizeof set), "wait for",
               "SIGUSR1");
  UniqueFd signals(static_cast<int>(kernel::must(
      kernel::call(SYS_signalfd4, -1, &set, sizeof set, SFD_CLOEXEC), "wait for", "SIGUSR1")));
  UniqueFd file = kernel::open(place, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600);
  kernel::write_all(file.get(), fmt::format("{}\n", getpid()), place);
  for (;;) {
    bool lives = sleep_on(pidfd, signals.get(), longest);
    pollfd told{signals.get(), POLLIN, 0};
    timespec now{};
    if (kernel::call(SYS_ppoll, &told, 1, &now, nullptr, 0) > 0) return lives;
    if (!lives) return false;
  }
}

bool wait_for_time(int pidfd, milliseconds delay) {
  auto end = Clock::now() + delay;
  for (;;) {
    auto rest = std::chrono::ceil<milliseconds>(end - Clock::now());
    if (rest.count() <= 0) return true;
    if (!sleep_on(pidfd, -1, rest)) return false;
  }
}

}  // namespace

Readiness parse_readiness(const std::string& text) {
  Readiness readiness;
  std::string_view value = text;
  std::string_view word = text::next(value, '=');
  if (word == "delay") {
    readiness.delay = parse_delay(text, value);
  } else if (word == "file") {
    readiness.kind = Readiness::Kind::file;
    readiness.path = value;
    if (!value.starts_with('/') || oci::clean_path(value) != value || value == "/")
      throw refuse(text, "its path isn't plain and absolute");
  } else if (word == "listen") {
    readiness.kind = Readiness::Kind::listen;
    auto port = text::to_int<uint16_t>(value);
    if (!port || *port == 0) throw refuse(text, "it is no port");
    readiness.port = *port;
  } else if (text == "signal") {
    readiness.kind = Readiness::Kind::signal;
  } else if (word == "log") {
    readiness.kind = Readiness::Kind::log;
    readiness.regex = value;
    if (value.empty() || value.size() > longest_regex)
      throw refuse(text, "its expression is empty or too long");
    if (auto expression = compile(readiness.regex); !expression->ok())
      throw refuse(text, "its expression isn't RE2's: " + expression->error());
  } else {
    throw refuse(text, "there is no such way to be ready");
  }
  return readiness;
}

bool listens(std::string_view table, unsigned port) {
  constexpr std::string_view listening = "0A";
  std::string wanted = fmt::format(":{:04X}", port);
  for (auto line : text::split(table, '\n')) {
    auto fields = text::words(line);
    if (fields.size() > 3 && fields[3] == listening && fields[1].ends_with(wanted)) return true;
  }
  return false;
}

bool wait_until_ready(const Readiness& readiness, const Starting& starting) {
  const auto& [init, pidfd, started, signal_place, log] = starting;
  switch (readiness.kind) {
    case Readiness::Kind::file:
      return wait_for_file(pidfd, init, readiness.path, started);
    case Readiness::Kind::listen:
      return repeat(pidfd, listen_interval,
                    [&, pid = init] { return listens(pid, readiness.port); });
    case Readiness::Kind::log:
      return wait_for_line(pidfd, *log, readiness.regex);
    case Readiness::Kind::signal:
      return wait_for_signal(pidfd, signal_place);
    case Readiness::Kind::delay:
      break;
  }
  return wait_for_time(pidfd, readiness.delay);
}

}  // namespace stasis::hook
