// Signal descriptors: a mask; whose signals are read is decided by who reads.
#include <sys/signalfd.h>
#include <sys/syscall.h>

// glibc's macro, a field of the image's SignalfdEntry.

#include "base/text.h"
#include "engine/files/dumper.h"
#include "engine/files/owner.h"
#include "engine/files/reopen.h"
#include "engine/files/restorer.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

namespace {

bool claims(const Probe& probe) { return probe.link == "anon_inode:[signalfd]"; }

void dump(Dumper& dumper, const OpenFile& file, image::FileEntry& entry) {
  const std::string* text = file.probe.info.find("sigmask");
  auto mask = text ? text::to_int<uint64_t>(*text, 16) : std::nullopt;
  if (!mask) throw Error("read the mask of", file.probe.described());
  image::SignalfdEntry& signals = *entry.mutable_sgfd();
  signals.set_id(file.id);
  signals.set_flags(file.probe.flags());
  signals.set_mask(*mask);
  *signals.mutable_fown() = dump_owner(file.fd.get(), file.probe.flags(), dumper.plan().root);
}

UniqueFd make(Restorer& restorer, const image::FileEntry& entry) {
  uint64_t mask = entry.sgfd().mask();
  long made = kernel::call(SYS_signalfd4, -1, &mask, sizeof mask, SFD_CLOEXEC);
  UniqueFd fd(static_cast<int>(kernel::must(made, "make", "a signal descriptor")));
  set_status_flags(fd.get(), entry.sgfd().flags());
  restorer.restore_owner(fd.get(), entry.sgfd().fown());
  return fd;
}

}  // namespace

const FileKind signalfd_kind = {
    "a signal descriptor", image::SIGNALFD, claims, nullptr, dump, make};

}  // namespace stasis::engine::files
