#include "engine/files/epoll.h"

#include <fmt/core.h>
#include <linux/kcmp.h>
#include <sys/epoll.h>
#include <sys/syscall.h>

#include <algorithm>
#include <map>

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

bool watches(const Probe& epoll, int target, kcmp_epoll_slot slot) {
  return kernel::call(SYS_kcmp, epoll.pid, epoll.pid, KCMP_EPOLL_TFD, target, &slot) == 0;
}

// The watch names the number that its file had when it was put in. The file
// may have another one by now.
int number_now(const Probe& epoll, uint32_t number, uint32_t nth) {
  kcmp_epoll_slot slot{static_cast<uint32_t>(epoll.number), number, nth};
  if (watches(epoll, static_cast<int>(number), slot)) return static_cast<int>(number);
  std::string path = fmt::format("/proc/{}/fd", epoll.pid);
  UniqueFd list = kernel::open(path, O_RDONLY | O_DIRECTORY);
  for (int other : kernel::numeric_entries(list.get(), path))
    if (watches(epoll, other, slot)) return other;
  throw Error("dump", process_name(epoll.pid))
      .because(fmt::format("its epoll (descriptor {}) watches a file that it has closed as "
                           "descriptor {} and no longer holds",
                           epoll.number, number));
}

void dump(Dumper& dumper, const OpenFile& file, image::FileEntry& entry) {
  image::EventpollFileEntry& epoll = *entry.mutable_epfd();
  epoll.set_id(file.id);
  epoll.set_flags(file.probe.flags());
  *epoll.mutable_fown() = dump_owner(file.fd.get(), file.probe.flags(), dumper.plan().root);
  std::map<uint32_t, uint32_t> seen;  // watches by number: it may have been used again
  for (const auto& line : file.probe.info.lines) {
    if (line.key != "tfd") continue;
    image::EventpollTfdEntry& watch = *epoll.add_tfd();
    watch = parse_watch(file.probe, line.value);
    watch.set_id(file.id);
    uint32_t nth = seen[watch.tfd()]++;
    watch.set_tfd(static_cast<uint32_t>(number_now(file.probe, watch.tfd(), nth)));
  }
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

// The epoll's number in `task`, if it has all that the epoll watches; or -1.
int reachable(const image::TaskImage& task, const image::EventpollFileEntry& epoll) {
  for (const auto& fd : task.fds) {
    if (fd.id() != epoll.id()) continue;
    bool all = std::all_of(epoll.tfd().begin(), epoll.tfd().end(),
                           [&](const auto& watch) { return holds_number(task, watch.tfd()); });
    return all ? static_cast<int>(fd.fd()) : -1;
  }
  return -1;
}

}  // namespace

std::vector<Restorer::Watch> epoll_watches(const Restorer& restorer, const image::TaskImage& task) {
  std::vector<Restorer::Watch> watches;
  for (const auto& [id, entry] : restorer.entries()) {
    if (entry.type() != image::EVENTPOLL) continue;
    const auto& tasks = restorer.image().tasks;
    auto first = std::find_if(
        tasks.begin(), tasks.end(),
        [&, &watched = entry.epfd()](auto& other) { return reachable(other, watched) >= 0; });
    if (first == tasks.end())
      throw Error("restore", fmt::format("epoll {}", id))
          .because("no process has all the descriptors that it watches");
    if (&*first != &task) continue;
    int number = reachable(task, entry.epfd());
    for (const auto& watch : entry.epfd().tfd())
      watches.push_back({number, static_cast<int>(watch.tfd()), watch.events(), watch.data()});
  }
  return watches;
}

const FileKind epoll_kind = {"an epoll", image::EVENTPOLL, claims, nullptr, dump, make};

}  // namespace stasis::engine::files
