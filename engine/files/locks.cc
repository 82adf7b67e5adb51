#include "engine/files/locks.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>
#include <sys/syscall.h>

#include <algorithm>

#include "base/text.h"
#include "engine/files/owner.h"
#include "engine/files/probe.h"
#include "engine/files/reopen.h"
#include "engine/files/restorer.h"
#include "engine/plan.h"
#include "kernel/call.h"

namespace stasis::engine::files {

namespace {

using image::FileLockEntry;

bool is_breaking(const FileLockEntry& lock) { return (lock.type() & image::lease_breaking) != 0; }

[[noreturn]] void unreadable(std::string_view line) {
  throw Error("read a file lock", std::string(line)).because("not as the kernel writes it");
}

uint32_t kind_of(std::string_view word, std::string_view line) {
  if (word == "POSIX") return image::lock_posix;
  if (word == "FLOCK") return image::lock_flock;
  if (word == "OFDLCK") return image::lock_ofd;
  if (word == "LEASE") return image::lock_lease;
  unreadable(line);
}

uint32_t type_of(std::string_view word, std::string_view line) {
  if (word == "READ") return F_RDLCK;
  if (word == "WRITE") return F_WRLCK;
  if (word == "UNLCK") return F_UNLCK;
  unreadable(line);
}

template <typename T>
T number(std::string_view word, std::string_view line) {
  auto value = text::to_int<T>(word);
  if (!value) unreadable(line);
  return *value;
}

// The wishes of those who break it are in no line; the lease itself knows.
void complete_lease(FileLockEntry& lock, int duplicate) {
  long type = kernel::must(kernel::call(SYS_fcntl, duplicate, F_GETLEASE, 0), "read", "a lease");
  lock.set_type(static_cast<uint32_t>(type) | (lock.type() & image::lease_breaking));
}

bool same_range(const FileLockEntry& a, const FileLockEntry& b) {
  return a.flag() == b.flag() && a.start() == b.start() && a.len() == b.len();
}

// That of the lease before somebody wanted the file.
long first_type(const FileLockEntry& lock, uint32_t open_flags) {
  uint32_t now = lock.type() & ~image::lease_breaking;
  if (!is_breaking(lock)) return now;
  return now == F_RDLCK || (open_flags & O_ACCMODE) != O_RDONLY ? F_WRLCK : F_RDLCK;
}

void take_lease(Restorer& restorer, const FileLockEntry& lock, uint32_t file_id) {
  const image::FileEntry& entry = restorer.entry(file_id);
  const std::string& name = entry.reg().name();
  int fd = restorer.get(file_id);
  kernel::must(kernel::call(SYS_fcntl, fd, F_SETLEASE, first_type(lock, entry.reg().flags())),
               "take the lease on", name);
  // Whoever takes it is told of its end. The image knows who is to be.
  f_owner_ex nobody{F_OWNER_PID, 0};
  kernel::must(kernel::call(SYS_fcntl, fd, F_SETOWN_EX, &nobody), "release the owner of", name);
  if (!is_breaking(lock)) return;
  bool for_writing = (lock.type() & ~image::lease_breaking) == F_UNLCK;
  long opened = try_reopen(fd, (for_writing ? O_WRONLY : O_RDONLY) | O_NONBLOCK);
  if (opened >= 0) UniqueFd(static_cast<int>(opened)).reset();
  if (opened != -EWOULDBLOCK)
    throw Error("break the lease on", name)
        .because(opened < 0 ? "opening the file fails" : "it didn't hold");
}

}  // namespace

HeldLock parse_lock(std::string_view line) {
  auto words = text::words(line);
  if (words.size() != 8) unreadable(line);
  HeldLock lock;
  lock.entry.set_flag(kind_of(words[1], line));
  bool breaking = lock.entry.flag() == image::lock_lease && words[2] == "BREAKING";
  if (words[2] == "MSNFS") unreadable(line);  // LOCK_MAND, which Linux 5.15 gave up
  lock.entry.set_type(type_of(words[3], line) | (breaking ? image::lease_breaking : 0));
  lock.taker = number<pid_t>(words[4], line);
  lock.entry.set_start(number<int64_t>(words[6], line));
  lock.entry.set_len(words[7] == "EOF" ? 0
                                       : number<int64_t>(words[7], line) - lock.entry.start() + 1);
  return lock;
}

std::optional<Objection> lock_objection(const Probe& probe, const DumpPlan& plan) {
  if (plan.file_locks || !probe.info.find("lock")) return std::nullopt;
  return Objection{"holds a file lock through " + probe.described(),
                   "take file locks along (--file-locks), or let the program release them"};
}

void FoundLocks::add(const Probe& probe, pid_t root, uint32_t table, uint32_t file, bool is_new,
                     int duplicate) {
  for (const auto& line : probe.info.lines) {
    if (line.key != "lock") continue;
    HeldLock lock = parse_lock(line.value);
    lock.entry.set_pid(pid_inside(root, probe.pid));
    lock.entry.set_fd(probe.number);
    bool of_table = lock.entry.flag() == image::lock_posix;
    auto known = std::find_if(found_.begin(), found_.end(), [&](const Found& other) {
      return other.file == file && same_range(other.lock.entry, lock.entry) &&
             (!of_table || other.table == table);
    });
    if (known != found_.end()) {
      // Whoever has taken it takes it again, where it still can.
      if (of_table || lock.taker != probe.pid) continue;
      known->lock.entry.set_pid(lock.entry.pid());
      known->lock.entry.set_fd(lock.entry.fd());
      continue;
    }
    if (!of_table && !is_new)
      throw Error("dump", probe.described()).because("its file locks change while it is frozen");
    if (lock.entry.flag() == image::lock_lease) complete_lease(lock.entry, duplicate);
    found_.push_back({std::move(lock), table, file});
  }
}

std::vector<FileLockEntry> FoundLocks::entries() const {
  std::vector<FileLockEntry> entries;
  entries.reserve(found_.size());
  for (const Found& found : found_) entries.push_back(found.lock.entry);
  return entries;
}

void take_locks(const image::Checkpoint& image, const image::TaskImage& task, SyscallBatch& batch) {
  for (const FileLockEntry& lock : image.locks) {
    if (static_cast<uint32_t>(lock.pid()) != task.tree.pid() || lock.flag() == image::lock_lease)
      continue;
    // None waits: somebody outside may have taken it meanwhile.
    constexpr const char* what = "take the file locks of";
    if (lock.flag() == image::lock_flock) {
      batch.must(what, SYS_flock, lock.fd(),
                 (lock.type() == F_RDLCK ? LOCK_SH : LOCK_EX) | LOCK_NB);
      continue;
    }
    struct flock range{};
    range.l_type = static_cast<short>(lock.type());
    range.l_whence = SEEK_SET;
    range.l_start = lock.start();
    range.l_len = lock.len();
    batch.must(what, SYS_fcntl, lock.fd(), lock.flag() == image::lock_ofd ? F_OFD_SETLK : F_SETLK,
               batch.object(range));
  }
}

void take_leases(Restorer& restorer) {
  for (const FileLockEntry& lock : restorer.image().locks) {
    if (lock.flag() != image::lock_lease) continue;
    for (const image::TaskImage& task : restorer.image().tasks) {
      if (task.tree.pid() != static_cast<uint32_t>(lock.pid())) continue;
      for (const image::FdinfoEntry& fd : task.fds)
        if (fd.fd() == static_cast<uint32_t>(lock.fd())) take_lease(restorer, lock, fd.id());
    }
  }
}

}  // namespace stasis::engine::files
