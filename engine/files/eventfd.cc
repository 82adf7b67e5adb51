// Event counters: fdinfo tells everything.
#include <sys/eventfd.h>
#include <sys/syscall.h>

#include "base/text.h"
#include "engine/files/dumper.h"
#include "engine/files/owner.h"
#include "engine/files/reopen.h"
#include "engine/files/restorer.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

namespace {

bool claims(const Probe& probe) { return probe.link == "anon_inode:[eventfd]"; }

void dump(Dumper& dumper, const OpenFile& file, image::FileEntry& entry) {
  const std::string* count = file.probe.info.find("eventfd-count");
  auto counter = count ? text::to_int<uint64_t>(*count, 16) : std::nullopt;
  if (!counter) throw Error("read the counter of", file.probe.described());
  image::EventfdFileEntry& efd = *entry.mutable_efd();
  efd.set_id(file.id);
  // O_RDWR leaves the lowest bit free for the mode that f_flags doesn't hold.
  const std::string* semaphore = file.probe.info.find("eventfd-semaphore");
  bool counts_down = semaphore && *semaphore == "1";
  efd.set_flags(file.probe.flags() | (counts_down ? EFD_SEMAPHORE : 0));
  efd.set_counter(*counter);
  *efd.mutable_fown() = dump_owner(file.fd.get(), file.probe.flags(), dumper.plan().root);
}

UniqueFd make(Restorer& restorer, const image::FileEntry& entry) {
  const image::EventfdFileEntry& efd = entry.efd();
  int flags = EFD_CLOEXEC | EFD_NONBLOCK | static_cast<int>(efd.flags() & EFD_SEMAPHORE);
  UniqueFd fd(static_cast<int>(
      kernel::must(kernel::call(SYS_eventfd2, 0, flags), "make", "an event counter")));
  uint64_t counter = efd.counter();
  if (counter != 0)
    kernel::must(kernel::call(SYS_write, fd.get(), &counter, sizeof counter), "set",
                 "an event counter");
  set_status_flags(fd.get(), efd.flags());
  restorer.restore_owner(fd.get(), efd.fown());
  return fd;
}

}  // namespace

const FileKind eventfd_kind = {"an event counter", image::EVENTFD, claims, nullptr, dump, make};

}  // namespace stasis::engine::files
