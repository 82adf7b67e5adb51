// Memory files: the inode with its name, size and seals in memfd.img, what it
// holds as that of shared memory.
#include "engine/files/memfd.h"

#include <fmt/core.h>
#include <linux/memfd.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <bit>

#include "engine/files/dumper.h"
#include "engine/files/owner.h"
#include "engine/files/reopen.h"
#include "engine/files/restorer.h"
#include "engine/image/checkpoint.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

namespace {

// Of Linux 6.3; Debian 12's headers don't have them.
constexpr uint32_t mfd_noexec_seal = 8, mfd_exec = 16;
constexpr uint32_t seal_exec = 0x20;
constexpr uint32_t any_exec = 0111;

constexpr std::string_view prefix = "/memfd:", deleted = " (deleted)";

bool makes(uint32_t flags, uint64_t device) {
  long made = kernel::call(SYS_memfd_create, "", flags | MFD_CLOEXEC);
  if (made < 0) return false;
  UniqueFd other(static_cast<int>(made));
  struct statx stat = kernel::stat_fd(other.get());
  return makedev(stat.stx_dev_major, stat.stx_dev_minor) == device;
}

bool claims(const Probe& probe) { return memory_file(probe).has_value(); }

std::optional<Objection> objection(const Probe& probe, const Surroundings&) {
  if (memory_file(probe) == 0U) return std::nullopt;
  return Objection{fmt::format("holds an anonymous file of huge pages ({}) open as descriptor {}",
                               probe.link, probe.number),
                   "start the program without explicit huge pages"};
}

// The inode's number in the image; written down where it is a new one.
uint32_t inode_of(Dumper& dumper, const OpenFile& file) {
  const Probe& probe = file.probe;
  auto [id, is_new] = dumper.memory_inodes().try_emplace({probe.device(), probe.stat.stx_ino}, 0);
  if (!is_new) return id->second;
  id->second = static_cast<uint32_t>(dumper.memory_inodes().size());
  // The duplicate may be open for writing only, or not at all (O_PATH).
  UniqueFd content = reopen(file.fd.get(), O_RDONLY, probe.link);
  image::MemfdInodeEntry inode;
  inode.set_inode_id(id->second);
  inode.set_name(
      probe.link.substr(prefix.size(), probe.link.size() - prefix.size() - deleted.size()));
  inode.set_uid(dumper.ids().uid_inside(probe.stat.stx_uid, probe.link));
  inode.set_gid(dumper.ids().gid_inside(probe.stat.stx_gid, probe.link));
  inode.set_size(probe.stat.stx_size);
  inode.set_mode(probe.stat.stx_mode);
  // Shared mappings of no file go by the number of their inode too.
  inode.set_shmid(static_cast<uint32_t>(probe.stat.stx_ino));
  inode.set_seals(static_cast<uint32_t>(kernel::must(
      kernel::call(SYS_fcntl, content.get(), F_GET_SEALS), "read the seals of", probe.link)));
  dumper.writer().append("memfd", inode);
  dumper.add_memory(inode.shmid(), std::move(content));
  return id->second;
}

void dump(Dumper& dumper, const OpenFile& file, image::FileEntry& entry) {
  const Probe& probe = file.probe;
  image::MemfdFileEntry& memfd = *entry.mutable_memfd();
  if (memory_file(probe) != 0U)
    throw Error("dump", probe.described())
        .because("it is a memory file of huge pages")
        .hint("start the program without explicit huge pages");
  memfd.set_id(file.id);
  memfd.set_flags(probe.flags());
  memfd.set_pos(static_cast<uint64_t>(probe.info.pos));
  *memfd.mutable_fown() =
      dump_owner(file.fd.get(), probe.number < 0 ? O_PATH : probe.flags(), dumper.plan().root);
  memfd.set_inode_id(inode_of(dumper, file));
}

const image::MemfdInodeEntry& inode_entry(const Restorer& restorer, uint32_t id) {
  for (const image::MemfdInodeEntry& inode : restorer.image().memfds)
    if (inode.inode_id() == id) return inode;
  throw Error("restore", fmt::format("memory file {}", id)).because("it isn't in memfd.img");
}

UniqueFd create(const image::MemfdInodeEntry& inode) {
  uint32_t seals = inode.seals();
  uint32_t flags = MFD_CLOEXEC | (seals == F_SEAL_SEAL ? 0 : MFD_ALLOW_SEALING);
  // Said or not, the host's default (vm.memfd_noexec) is nobody's wish.
  bool sealed = (seals & seal_exec) && !(inode.mode() & any_exec);
  long made = kernel::call(SYS_memfd_create, inode.name().c_str(),
                           flags | (sealed ? mfd_noexec_seal : mfd_exec));
  if (made == -EINVAL) made = kernel::call(SYS_memfd_create, inode.name().c_str(), flags);
  return UniqueFd(static_cast<int>(kernel::must(made, "make memory file", inode.name())));
}

UniqueFd make_inode(const Restorer& restorer, const image::MemfdInodeEntry& inode) {
  UniqueFd fd = create(inode);
  kernel::must(kernel::call(SYS_ftruncate, fd.get(), inode.size()), "set the size of memory file",
               inode.name());
  kernel::must(kernel::call(SYS_fchown, fd.get(), restorer.ids().uid_outside(inode.uid(), "a file"),
                            restorer.ids().gid_outside(inode.gid(), "a file")),
               "set the owner of memory file", inode.name());
  if (inode.has_mode())
    kernel::must(kernel::call(SYS_fchmod, fd.get(), inode.mode() & 07777),
                 "set the mode of memory file", inode.name());
  return fd;
}

MemoryFile& made(Restorer& restorer, uint32_t id) {
  MemoryFile& file = restorer.memory_files()[id];
  if (file.fd) return file;
  file.inode = &inode_entry(restorer, id);
  file.fd = make_inode(restorer, *file.inode);
  return file;
}

UniqueFd make(Restorer& restorer, const image::FileEntry& entry) {
  const image::MemfdFileEntry& memfd = entry.memfd();
  MemoryFile& file = made(restorer, memfd.inode_id());
  UniqueFd fd;
  // Only the open file that memfd_create() makes doesn't count as one that
  // writes, for as long as there is one the file can't be executed.
  // (Filling it with O_APPEND would append.)
  if ((memfd.flags() & (O_ACCMODE | O_PATH | O_APPEND)) == O_RDWR && !file.taken) {
    file.taken = true;
    fd = duplicate(file.fd.get());
    set_status_flags(fd.get(), memfd.flags());
  } else {
    fd = reopen(file.fd.get(), memfd.flags(), file.inode->name());
  }
  if (memfd.flags() & O_PATH) return fd;
  kernel::must(kernel::call(SYS_lseek, fd.get(), memfd.pos(), SEEK_SET), "set the position in",
               file.inode->name());
  restorer.restore_owner(fd.get(), memfd.fown());
  return fd;
}

}  // namespace

std::optional<uint32_t> memory_file(const Probe& probe) {
  if (!probe.link.starts_with(prefix) || !probe.link.ends_with(deleted) || !probe.is(S_IFREG) ||
      probe.stat.stx_nlink != 0)
    return std::nullopt;
  // A file of a container can have been called so too.
  if (makes(0, probe.device())) return 0;
  auto size = static_cast<unsigned>(std::countr_zero(probe.stat.stx_blksize));
  uint32_t huge = MFD_HUGETLB | size << MFD_HUGE_SHIFT;
  if (makes(huge, probe.device())) return huge;
  return std::nullopt;
}

UniqueFd open_memory(Restorer& restorer, const image::MemfdFileEntry& entry, uint32_t flags) {
  MemoryFile& file = made(restorer, entry.inode_id());
  if ((flags & O_ACCMODE) == O_RDWR) return duplicate(file.fd.get());
  return reopen(file.fd.get(), flags, file.inode->name());
}

void seal_memory(Restorer& restorer) {
  for (const auto& [id, file] : restorer.memory_files()) {
    uint32_t seals = file.inode->seals();
    if (seals == 0 || seals == F_SEAL_SEAL) continue;
    kernel::must(kernel::call(SYS_fcntl, file.fd.get(), F_ADD_SEALS, seals), "seal memory file",
                 file.inode->name());
  }
}

const FileKind memfd_kind = {"a memory file", image::MEMFD, claims, objection, dump, make};

}  // namespace stasis::engine::files
