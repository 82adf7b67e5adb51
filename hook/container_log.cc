#include "hook/container_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>

#include <algorithm>
#include <optional>

#include "base/text.h"
#include "kernel/fs.h"
#include "kernel/proc_fdinfo.h"
#include "kernel/proc_misc.h"
#include "kernel/proc_stat.h"

namespace stasis::hook {

namespace {

constexpr size_t longest_line = 64 << 10;
constexpr int farthest_ancestor = 8;
constexpr const char* containerd_shim = "containerd-shim";

Error refuse(const std::string& cause) {
  return Error("follow", "the container's log")
      .because(cause)
      .hint(
          "log= needs output that goes to a file, or to a monitor that writes it to one (podman's "
          "--log-driver k8s-file); or use delay=, file=, listen= or signal");
}

std::string descriptor(pid_t pid, int fd) { return fmt::format("/proc/{}/fd/{}", pid, fd); }

// Closed at any moment, by its owner. The path alone: nothing is opened truly.
UniqueFd look_at(pid_t pid, int fd) {
  long found = kernel::call(SYS_openat, AT_FDCWD, descriptor(pid, fd).c_str(), O_PATH | O_CLOEXEC);
  return UniqueFd(found < 0 ? -1 : static_cast<int>(found));
}

bool same(const struct statx& a, const struct statx& b) {
  return a.stx_ino == b.stx_ino && a.stx_dev_major == b.stx_dev_major &&
         a.stx_dev_minor == b.stx_dev_minor;
}

std::optional<int> access_mode(pid_t pid, int fd) {
  try {
    std::string text = kernel::read_file(fmt::format("/proc/{}/fdinfo/{}", pid, fd));
    return static_cast<int>(kernel::parse_fdinfo(text).flags & O_ACCMODE);
  } catch (const Error&) {
    return std::nullopt;
  }
}

std::vector<int> descriptors(pid_t pid) {
  std::string path = fmt::format("/proc/{}/fd", pid);
  UniqueFd list = kernel::open(path, O_RDONLY | O_DIRECTORY);
  return kernel::numeric_entries(list.get(), path);
}

pid_t parent_of(pid_t pid) {
  return kernel::parse_stat(kernel::read_file(fmt::format("/proc/{}/stat", pid))).ppid;
}

std::string name_of(pid_t pid) {
  return kernel::parse_stat(kernel::read_file(fmt::format("/proc/{}/stat", pid))).comm;
}

bool reads(pid_t pid, const struct statx& pipe) {
  for (int fd : descriptors(pid)) {
    UniqueFd open = look_at(pid, fd);
    if (open && same(kernel::stat_fd(open.get()), pipe) &&
        access_mode(pid, fd).value_or(O_WRONLY) != O_WRONLY)
      return true;
  }
  return false;
}

// A file of the kernel's own, such as memory.oom_control, is no log.
bool on_disk(int fd) {
  struct statfs fs{};
  if (kernel::call(SYS_fstatfs, fd, &fs) < 0) return false;
  for (auto made_up : {PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC})
    if (fs.f_type == made_up) return false;
  return true;
}

// The files that a process writes, each once.
std::vector<UniqueFd> written_by(pid_t pid) {
  std::vector<UniqueFd> files;
  for (int fd : descriptors(pid)) {
    UniqueFd file = look_at(pid, fd);
    if (!file) continue;
    struct statx stat = kernel::stat_fd(file.get());
    bool known = std::any_of(files.begin(), files.end(), [&](const UniqueFd& other) {
      return same(kernel::stat_fd(other.get()), stat);
    });
    if (known || !S_ISREG(stat.stx_mode) || stat.stx_nlink == 0) continue;
    if (access_mode(pid, fd).value_or(O_RDONLY) == O_RDONLY || !on_disk(file.get())) continue;
    files.push_back(std::move(file));
  }
  return files;
}

// Whose one file is what they read; of others' files nobody knows what is in them.
bool is_monitor(std::string_view name) {
  for (const char* known : {"conmon", containerd_shim, "runc", "crun"})
    if (name == known) return true;
  return false;
}

// The runtime that makes the init, the monitor that called it, and so on.
pid_t reader_of(pid_t init, const struct statx& pipe) {
  pid_t pid = init;
  for (int i = 0; i < farthest_ancestor; ++i) {
    pid = parent_of(pid);
    if (pid <= 1) break;
    if (!reads(pid, pipe)) continue;
    if (is_monitor(name_of(pid))) return pid;
    throw refuse(fmt::format("{} (process {}), which reads it, isn't known to write it to a file",
                             name_of(pid), pid));
  }
  throw refuse("it goes to a pipe that none of the processes which started the container reads");
}

UniqueFd log_of(pid_t reader) {
  std::string who = fmt::format("{} (process {}), which reads it,", name_of(reader), reader);
  std::vector<UniqueFd> files = written_by(reader);
  if (files.empty()) throw refuse(who + " writes it to no file");
  if (files.size() == 1) return std::move(files.front());
  std::string names;
  for (const UniqueFd& file : files)
    names += (names.empty() ? "" : ", ") +
             kernel::read_link(fmt::format("/proc/self/fd/{}", file.get()));
  throw refuse(fmt::format("{} writes several files: {}", who, names));
}

// "2026-11-21T20:00:00.123456789+00:00 stdout F text": the text; whether it goes on.
struct Framed {
  std::string_view text;
  bool goes_on = false;
};
Framed unframe(std::string_view line) {
  constexpr size_t shortest_date = 20;
  std::string_view rest = line;
  std::string_view date = text::next(rest, ' ');
  std::string_view stream = text::next(rest, ' ');
  std::string_view tag = text::next(rest, ' ');
  bool framed = date.size() >= shortest_date && date[10] == 'T' &&
                (stream == "stdout" || stream == "stderr") &&
                (tag.starts_with('F') || tag.starts_with('P'));
  if (!framed) return {line};
  return {rest, tag.starts_with('P')};
}

}  // namespace

bool LogLines::add(std::string_view bytes, const LineMatch& match) {
  while (!bytes.empty()) {
    size_t end = bytes.find('\n');
    std::string_view part = bytes.substr(0, end);
    line_ += part.substr(0, longest_line - std::min(line_.size(), longest_line));
    if (end == bytes.npos) return false;
    bytes.remove_prefix(end + 1);
    if (end_of_line(match)) return true;
  }
  return false;
}

bool LogLines::end_of_line(const LineMatch& match) {
  Framed framed = unframe(line_);
  text_ += framed.text.substr(0, longest_line - std::min(text_.size(), longest_line));
  line_.clear();
  if (framed.goes_on) return false;
  bool found = match(text_);
  text_.clear();
  return found;
}

ContainerLog::ContainerLog(pid_t init) {
  long made = kernel::call(SYS_inotify_init1, IN_CLOEXEC | IN_NONBLOCK);
  events_ = UniqueFd(static_cast<int>(kernel::must(made, "watch", "the container's log")));
  std::optional<Error> why;
  for (int fd : {1, 2}) {
    try {
      follow(init, fd);
    } catch (const Error& error) {
      if (!why) why = error;
    }
  }
  if (files_.empty() && late_.empty()) throw Error(*why);
}

void ContainerLog::begin() {
  for (pid_t writer : late_) {
    try {
      add(log_of(writer), writer);
    } catch (const Error& error) {
      failure_ = error;
    }
  }
  for (File& file : files_)
    file.position = static_cast<off_t>(kernel::stat_fd(file.fd.get()).stx_size);
}

void ContainerLog::follow(pid_t init, int fd) {
  UniqueFd output = look_at(init, fd);
  if (!output) throw refuse("its output is closed");
  struct statx stat = kernel::stat_fd(output.get());
  pid_t writer = 0;
  if (S_ISFIFO(stat.stx_mode)) {
    writer = reader_of(init, stat);
    if (name_of(writer) == containerd_shim) {
      late_.insert(writer);
      return;
    }
    output = log_of(writer);
  } else if (!S_ISREG(stat.stx_mode)) {
    throw refuse(fmt::format("its output goes to {}, where it can't be read again",
                             kernel::read_link(descriptor(init, fd))));
  }
  add(std::move(output), writer);
}

void ContainerLog::add(UniqueFd found, pid_t writer) {
  struct statx stat = kernel::stat_fd(found.get());
  for (const File& other : files_)
    if (same(kernel::stat_fd(other.fd.get()), stat)) return;
  files_.push_back(open(found, writer));
}

// `found` is what a descriptor leads to; by way of our own it stays the same file.
ContainerLog::File ContainerLog::open(const UniqueFd& found, pid_t writer) {
  std::string own = fmt::format("/proc/self/fd/{}", found.get());
  constexpr uint32_t changes = IN_MODIFY | IN_MOVE_SELF | IN_ATTRIB;
  kernel::must(kernel::call(SYS_inotify_add_watch, events_.get(), own.c_str(), changes), "watch",
               "the container's log");
  return {kernel::open(own, O_RDONLY | O_NOCTTY), writer, 0, {}};
}

// A monitor begins another file when one is large enough, or when it is told to.
UniqueFd ContainerLog::successor(const File& file) {
  if (file.writer == 0) return {};
  try {
    std::vector<UniqueFd> now = written_by(file.writer);
    if (now.size() == 1 &&
        !same(kernel::stat_fd(now.front().get()), kernel::stat_fd(file.fd.get())))
      return std::move(now.front());
  } catch (const Error&) {  // it has ended
  }
  return {};
}

bool ContainerLog::read(File& file, const LineMatch& match) {
  // It was emptied: what comes is new.
  if (static_cast<off_t>(kernel::stat_fd(file.fd.get()).stx_size) < file.position) {
    file.position = 0;
    file.lines = {};
  }
  std::vector<char> buffer(longest_line);
  for (;;) {
    long size = kernel::must(
        kernel::call(SYS_pread64, file.fd.get(), buffer.data(), buffer.size(), file.position),
        "read", "the container's log");
    if (size == 0) return false;
    file.position += size;
    if (file.lines.add({buffer.data(), static_cast<size_t>(size)}, match)) return true;
  }
}

bool ContainerLog::said(const LineMatch& match) {
  if (files_.empty() && failure_) throw Error(*failure_);
  char events[4096];
  while (kernel::call(SYS_read, events_.get(), events, sizeof events) > 0) {
  }
  for (File& file : files_) {
    off_t before = file.position;
    if (read(file, match)) return true;
    if (file.position != before) continue;
    UniqueFd next = successor(file);
    if (!next) continue;
    if (read(file, match)) return true;
    file = open(next, file.writer);
    if (read(file, match)) return true;
  }
  return false;
}

}  // namespace stasis::hook
