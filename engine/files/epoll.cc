#include "engine/files/epoll.h"

#include <fmt/core.h>
#include <linux/kcmp.h>
#include <sys/epoll.h>
#include <sys/syscall.h>

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

bool holds_all(const image::TaskImage& task, const image::EventpollFileEntry& epoll) {
  return std::all_of(epoll.tfd().begin(), epoll.tfd().end(),
                     [&](const auto& watch) { return holds_number(task, watch.tfd()); });
}

}  // namespace

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
