#include "engine/files/epoll.h"

#include <fmt/core.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/text.h"
#include "engine/files/dumper.h"
#include "engine/files/owner.h"
#include "engine/files/reopen.h"
#include "engine/image/checkpoint.h"
#include "kernel/fs.h"
#include "kernel/proc_misc.h"

namespace stasis::engine::files {

namespace {

bool claims(const Probe& probe) { return probe.link == "anon_inode:[eventpoll]"; }

// fdinfo: "tfd: 5 events: 19 data: 5 pos:0 ino:1c1d sdev:7", all but the
// first and pos in hexadecimal.
image::EventpollTfdEntry parse_watch(const Probe& probe, std::string_view line) {
  auto unreadable = [&] {
    return Error("read the watches of", probe.described()).because(std::string(line));
  };
  std::map<std::string_view, std::string_view> fields;
  auto parts = text::words(line);
  if (parts.empty()) throw unreadable();
  for (size_t i = 1; i < parts.size(); ++i) {
    std::string_view key = parts[i], value = key;
    key = text::next(value, ':');
    if (value.empty() && i + 1 < parts.size()) value = parts[++i];
    fields[key] = value;
  }
  auto number = [&](const char* key, int base) {
    auto found = fields.find(key);
    auto value = found == fields.end() ? std::nullopt : text::to_int<uint64_t>(found->second, base);
    if (!value) throw unreadable();
    return *value;
  };
  auto target = text::to_int<uint32_t>(parts[0]);
  if (!target) throw unreadable();
  image::EventpollTfdEntry watch;
  watch.set_tfd(*target);
  watch.set_events(static_cast<uint32_t>(number("events", 16)));
  watch.set_data(number("data", 16));
  watch.set_pos(number("pos", 10));
  watch.set_inode(number("ino", 16));
  watch.set_dev(static_cast<uint32_t>(number("sdev", 16)));
  return watch;
}

// `epoll` may be ours, while it travels in the queue of a socket.
bool watches(const Probe& epoll, pid_t holder, int target, kcmp_epoll_slot slot) {
  return kernel::call(SYS_kcmp, holder, epoll.pid, KCMP_EPOLL_TFD, target, &slot) == 0;
}

// The watch names the number that its file had when it was put in. The file
// may have another one by now.
std::optional<int> number_now(const Probe& epoll, pid_t holder, uint32_t number, uint32_t nth) {
  kcmp_epoll_slot slot{static_cast<uint32_t>(epoll.number), number, nth};
  if (watches(epoll, holder, static_cast<int>(number), slot)) return static_cast<int>(number);
  std::string path = fmt::format("/proc/{}/fd", holder);
  UniqueFd list = kernel::open(path, O_RDONLY | O_DIRECTORY);
  for (int other : kernel::numeric_entries(list.get(), path))
    if (watches(epoll, holder, other, slot)) return other;
  return std::nullopt;
}

// Makes the numbers those by which `holder` has the files; false if it lacks one.
bool number_by(pid_t holder, const Probe& probe, image::EventpollFileEntry& epoll) {
  std::map<uint32_t, uint32_t> seen;  // watches by number: it may have been used again
  std::vector<int> numbers;
  for (const auto& watch : epoll.tfd()) {
    auto number = number_now(probe, holder, watch.tfd(), seen[watch.tfd()]++);
    if (!number) return false;
    numbers.push_back(*number);
  }
  for (int i = 0; i < epoll.tfd_size(); ++i)
    epoll.mutable_tfd(i)->set_tfd(static_cast<uint32_t>(numbers[static_cast<size_t>(i)]));
  return true;
}

void dump(Dumper& dumper, const OpenFile& file, image::FileEntry& entry) {
  image::EventpollFileEntry& epoll = *entry.mutable_epfd();
  epoll.set_id(file.id);
  epoll.set_flags(file.probe.flags());
  *epoll.mutable_fown() = dump_owner(file.fd.get(), file.probe.flags(), dumper.plan().root);
  for (const auto& line : file.probe.info.lines) {
    if (line.key != "tfd") continue;
    image::EventpollTfdEntry& watch = *epoll.add_tfd();
    watch = parse_watch(file.probe, line.value);
    watch.set_id(file.id);
  }
  std::vector<pid_t> holders{file.probe.pid};
  if (file.probe.pid == kernel::call(SYS_getpid)) holders = dumper.holders();
  bool known = std::any_of(holders.begin(), holders.end(),
                           [&](pid_t holder) { return number_by(holder, file.probe, epoll); });
  if (!known)
    throw Error("dump", process_name(file.probe.pid))
        .because(fmt::format("its epoll (descriptor {}) watches a file that it has closed and no "
                             "longer holds",
                             file.probe.number));
}

UniqueFd make(Restorer& restorer, const image::FileEntry& entry) {
  long made = kernel::call(SYS_epoll_create1, EPOLL_CLOEXEC);
  UniqueFd fd(static_cast<int>(kernel::must(made, "make", "an epoll")));
  set_status_flags(fd.get(), entry.epfd().flags());
  restorer.restore_owner(fd.get(), entry.epfd().fown());
  return fd;
}

bool holds_number(const image::TaskImage& task, uint32_t number) {
  return std::any_of(task.fds.begin(), task.fds.end(),
                     [number](const auto& fd) { return fd.fd() == number; });
}

bool holds_all(const image::TaskImage& task, const image::EventpollFileEntry& epoll) {
  return std::all_of(epoll.tfd().begin(), epoll.tfd().end(),
                     [&](const auto& watch) { return holds_number(task, watch.tfd()); });
}

// In a process for this alone: the kernel knows a watch by its number as well.
[[noreturn]] void watch_as(
    const std::vector<std::pair<int, const image::EventpollTfdEntry*>>& files, int epoll) {
  uint32_t apart = 0;
  for (const auto& [fd, watch] : files) apart = std::max(apart, watch->tfd() + 1);
  long moved = kernel::call(SYS_fcntl, epoll, F_DUPFD, apart);
  std::vector<long> sources;
  sources.reserve(files.size());
  for (const auto& [fd, watch] : files)
    sources.push_back(kernel::call(SYS_fcntl, fd, F_DUPFD, apart));
  bool done = moved >= 0;
  for (size_t i = 0; i < files.size() && done; ++i) {
    const image::EventpollTfdEntry& watch = *files[i].second;
    epoll_event event{};
    event.events = watch.events();
    event.data.u64 = watch.data();
    done = sources[i] >= 0 && kernel::call(SYS_dup3, sources[i], watch.tfd(), 0) >= 0 &&
           kernel::call(SYS_epoll_ctl, moved, EPOLL_CTL_ADD, watch.tfd(), &event) >= 0;
  }
  _exit(done ? 0 : 1);
}

}  // namespace

void watch_in_flight(Restorer& restorer, uint32_t id) {
  const image::EventpollFileEntry& epoll = restorer.entry(id).epfd();
  for (const image::TaskImage& task : restorer.image().tasks) {
    if (!holds_all(task, epoll)) continue;
    std::vector<std::pair<int, const image::EventpollTfdEntry*>> files;
    for (const auto& watch : epoll.tfd())
      for (const auto& fd : task.fds)
        if (fd.fd() == watch.tfd()) files.emplace_back(restorer.get(fd.id()), &watch);
    int own = restorer.get(id);
    long child = kernel::call(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr);
    if (child == 0) watch_as(files, own);
    kernel::must(child, "make", "a process");
    int status = 0;
    while (kernel::call(SYS_wait4, child, &status, 0, nullptr) == -EINTR) continue;
    if (status == 0) return;
    break;
  }
  throw Error("restore", fmt::format("epoll {}", id)).because("what it watches can't be added");
}

std::map<const image::TaskImage*, std::vector<Restorer::Watch>> epoll_watches(
    const Restorer& restorer) {
  std::map<const image::TaskImage*, std::vector<Restorer::Watch>> watches;
  std::set<uint32_t> held, done;
  for (const image::TaskImage& task : restorer.image().tasks)
    for (const auto& fd : task.fds) {
      if (fd.type() != image::EVENTPOLL || done.contains(fd.id())) continue;
      held.insert(fd.id());
      const image::EventpollFileEntry& epoll = restorer.entry(fd.id()).epfd();
      if (!holds_all(task, epoll)) continue;
      done.insert(fd.id());
      for (const auto& watch : epoll.tfd())
        watches[&task].push_back({static_cast<int>(fd.fd()), static_cast<int>(watch.tfd()),
                                  watch.events(), watch.data()});
    }
  for (uint32_t id : held)
    if (!done.contains(id))
      throw Error("restore", fmt::format("epoll {}", id))
          .because("no process has all the descriptors that it watches");
  return watches;
}

const FileKind epoll_kind = {"an epoll", image::EVENTPOLL, claims, nullptr, dump, make};

}  // namespace stasis::engine::files
