// inotify: its watches from fdinfo, each with the path of what it watches.
#include "engine/files/inotify.h"

#include <fmt/core.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <algorithm>

#include "engine/files/dumper.h"
#include "engine/files/owner.h"
#include "engine/files/reopen.h"
#include "engine/files/restorer.h"
#include "engine/files/watched.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

namespace {

constexpr unsigned long set_next_wd = _IOW('I', 0, int32_t);  // INOTIFY_IOC_SETNEXTWD
constexpr uint32_t lasting_mask = IN_ALL_EVENTS | IN_EXCL_UNLINK | IN_ONESHOT;

bool claims(const Probe& probe) { return probe.link == "anon_inode:inotify"; }

std::vector<WatchedInode> watches_of(const Probe& probe) {
  std::vector<WatchedInode> watches;
  for (const auto& line : probe.info.lines)
    if (line.key == "inotify") watches.emplace_back(line.value);
  return watches;
}

std::optional<Objection> objection(const Probe& probe, const Surroundings& around) {
  for (const WatchedInode& watch : watches_of(probe)) try {
      find_watched(watch, around);
    } catch (const Error& error) {
      return Objection{fmt::format("watches {} by inotify (descriptor {}), but {}", error.subject(),
                                   probe.number, error.cause()),
                       error.remedy()};
    }
  return std::nullopt;
}

// Reading events would take them from the program for good.
void warn_of_events(Dumper& dumper, const OpenFile& file) {
  int bytes = 0;
  kernel::must(kernel::call(SYS_ioctl, file.fd.get(), FIONREAD, &bytes), "look at the events of",
               file.probe.described());
  if (bytes > 0)
    dumper.log().warn(
        "{}: {} bytes of inotify events that it hasn't read (descriptor {}) won't "
        "come back after a restore",
        process_name(file.probe.pid), bytes, file.probe.number);
}

void dump(Dumper& dumper, const OpenFile& file, image::FileEntry& entry) {
  warn_of_events(dumper, file);
  image::InotifyFileEntry& inotify = *entry.mutable_ify();
  inotify.set_id(file.id);
  inotify.set_flags(file.probe.flags());
  *inotify.mutable_fown() = dump_owner(file.fd.get(), file.probe.flags(), dumper.plan().root);
  for (const WatchedInode& watch : watches_of(file.probe)) {
    WatchedPlace place = find_watched(watch, dumper.around());
    image::InotifyWdEntry& wd = *inotify.add_wd();
    wd.set_id(file.id);
    wd.set_wd(static_cast<uint32_t>(watch.number("wd")));
    wd.set_i_ino(watch.inode());
    wd.set_s_dev(static_cast<uint32_t>(watch.number("sdev")));
    wd.set_mask(static_cast<uint32_t>(watch.number("mask")));
    wd.set_ignored_mask(0);
    *wd.mutable_f_handle() = watch.handle();
    if (place.path.empty()) {
      dumper.expect_ghost(makedev(watch.major(), watch.minor()), watch.inode(), file.probe);
      continue;
    }
    wd.mutable_f_handle()->set_path(place.path);
    wd.mutable_f_handle()->set_mnt_id(place.mount);
  }
}

UniqueFd make(Restorer& restorer, const image::FileEntry& entry) {
  const image::InotifyFileEntry& inotify = entry.ify();
  UniqueFd fd(static_cast<int>(
      kernel::must(kernel::call(SYS_inotify_init1, IN_CLOEXEC), "make", "an inotify")));
  set_status_flags(fd.get(), inotify.flags());
  restorer.restore_owner(fd.get(), inotify.fown());
  for (const image::InotifyWdEntry& wd : inotify.wd())
    restorer.pending_watches().push_back({duplicate(fd.get()), {}, &wd});
  return fd;
}

// A file without a name, that other descriptors have open.
UniqueFd open_ghost(Restorer& restorer, const image::InotifyWdEntry& wd) {
  for (const auto& [remap, fd] : restorer.nameless()) {
    if (remap.first != image::GHOST) continue;
    image::Reader reader = restorer.image().dir.read(fmt::format("ghost-file-{:x}", remap.second));
    image::GhostFileEntry ghost;
    if (reader.next(ghost) && ghost.ino() == wd.i_ino() && ghost.dev() == wd.s_dev())
      return duplicate(fd.get());
  }
  throw Error("restore", fmt::format("inotify watch {}", wd.wd()))
      .because("the image doesn't tell the path of what is watched");
}

}  // namespace

void open_watch_targets(Restorer& restorer) {
  for (PendingWatch& watch : restorer.pending_watches()) {
    const image::FhEntry& place = watch.entry->f_handle();
    if (!place.has_path()) {
      watch.target = open_ghost(restorer, *watch.entry);
      continue;
    }
    std::string path = place.path().size() > 1 ? place.path().substr(1) : ".";
    watch.target = kernel::open_in(restorer.root_of(static_cast<int>(place.mnt_id())), path,
                                   O_PATH | O_NOFOLLOW, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
  }
}

void set_watches(std::vector<PendingWatch>& watches) {
  // The next new one gets a number above all.
  std::sort(watches.begin(), watches.end(), [](const PendingWatch& a, const PendingWatch& b) {
    return a.entry->wd() < b.entry->wd();
  });
  for (const PendingWatch& watch : watches) {
    std::string path = fmt::format("/proc/self/fd/{}", watch.target.get());
    std::string what = fmt::format("inotify watch {}", watch.entry->wd());
    kernel::must(kernel::call(SYS_ioctl, watch.inotify.get(), set_next_wd, watch.entry->wd()),
                 "choose the number of", what);
    long wd = kernel::must(kernel::call(SYS_inotify_add_watch, watch.inotify.get(), path.c_str(),
                                        watch.entry->mask() & lasting_mask),
                           "restore", what);
    if (wd != static_cast<long>(watch.entry->wd()))
      throw Error("restore", what).because(fmt::format("it became watch {}", wd));
  }
  watches.clear();
}

const FileKind inotify_kind = {"an inotify", image::INOTIFY, claims, objection, dump, make};

}  // namespace stasis::engine::files
