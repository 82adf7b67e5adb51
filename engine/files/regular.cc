// Regular files, directories and harmless devices, known by their path.
#include "engine/files/regular.h"

#include <fmt/core.h>
#include <linux/kcmp.h>
#include <sys/syscall.h>

#include "engine/files/dead_task.h"
#include "engine/files/dumper.h"
#include "engine/files/memfd.h"
#include "engine/files/nameless.h"
#include "engine/files/owner.h"
#include "engine/files/reopen.h"
#include "engine/files/restorer.h"
#include "engine/files/standing.h"
#include "engine/image/checkpoint.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

namespace {

constexpr unsigned memory_devices = 1;  // /dev/null, zero, full, random, urandom, kmsg
constexpr unsigned kmsg_minor = 11;

// Only what opening does nothing to: a driver could do anything.
bool harmless(const struct statx& stat) {
  return S_ISREG(stat.stx_mode) || S_ISDIR(stat.stx_mode) ||
         (S_ISCHR(stat.stx_mode) && stat.stx_rdev_major == memory_devices);
}

bool claims(const Probe& probe) {
  if (!probe.by_path() || memory_file(probe)) return false;
  return harmless(probe.stat) || (probe.flags() & O_PATH);
}

// A log that is only appended to may grow.
bool size_matters(uint32_t flags) { return (flags & O_ACCMODE) != O_WRONLY || !(flags & O_APPEND); }

// A file of the host's that is the container's standard input or output.
bool is_runtimes(const Probe& probe, const Surroundings& around) {
  const DumpPlan& plan = around.plan();
  if (!plan.runtime_gives_stdio || !probe.is(S_IFREG) || probe.number < 0) return false;
  bool stdio = false;
  for (int fd = 0; fd <= 2; ++fd)
    stdio |= kernel::call(SYS_kcmp, plan.root, probe.pid, KCMP_FILE, fd, probe.number) == 0;
  return stdio && standing_of(probe, around).outside;
}

// Its key is of the form that CRIU gives to external files.
void describe_runtimes(Dumper& dumper, const OpenFile& file, image::RegFileEntry& entry) {
  const Probe& probe = file.probe;
  entry.set_id(file.id);
  entry.set_flags(probe.flags());
  entry.set_pos(0);
  entry.set_name(fmt::format("file[{:x}:{:x}]", probe.info.mnt_id, probe.stat.stx_ino));
  entry.set_ext(true);
  *entry.mutable_fown() = dump_owner(file.fd.get(), probe.flags(), dumper.plan().root);
}

void dump(Dumper& dumper, const OpenFile& file, image::FileEntry& entry) {
  if (is_runtimes(file.probe, dumper.around()))
    return describe_runtimes(dumper, file, *entry.mutable_reg());
  describe_path(dumper, file, *entry.mutable_reg(), file.id);
}

std::string below_root(const std::string& name) {
  if (!name.starts_with('/')) throw Error("restore file", name).because("its path is not absolute");
  return name.size() == 1 ? "." : name.substr(1);
}

const image::RemapFilePathEntry* remap_of(Restorer& restorer, uint32_t id) {
  for (const auto& remap : restorer.image().remaps)
    if (remap.orig_id() == id) return &remap;
  return nullptr;
}

void set_position(int fd, const image::RegFileEntry& entry) {
  auto position = static_cast<int64_t>(entry.pos());
  if (position == 0 || position == -1 || (entry.flags() & O_PATH)) return;
  kernel::must(kernel::call(SYS_lseek, fd, position, SEEK_SET), "set the position in",
               entry.name());
}

// Of a process that has ended.
UniqueFd make_dead(Restorer& restorer, const image::RegFileEntry& reg, uint32_t pid) {
  auto init = static_cast<pid_t>(restorer.image().root().tree.pid());
  return restorer.later().open([&restorer, &reg, init, pid](const Pids& pids) {
    auto id = static_cast<pid_t>(pid);
    restorer.revenants().try_emplace(id, pids.at(init), id);
    UniqueFd fd = kernel::open_in(restorer.root_of(reg), below_root(reg.name()),
                                  static_cast<int>(lasting_flags(reg.flags()) | O_NOCTTY),
                                  RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
    set_position(fd.get(), reg);
    return fd;
  });
}

// In /proc of a process, which may not be there yet.
bool is_of_process(Restorer& restorer, const image::RegFileEntry& reg) {
  for (const auto& [ns, mounts] : restorer.image().mounts)
    for (const image::MntEntry& mount : mounts)
      if (static_cast<int64_t>(mount.mnt_id()) == reg.mnt_id())
        return mount.fstype() == image::PROC && process_of(reg.name(), mount.mountpoint());
  return false;
}

UniqueFd make(Restorer& restorer, const image::FileEntry& entry) {
  const image::RegFileEntry& reg = entry.reg();
  const image::RemapFilePathEntry* remap = remap_of(restorer, reg.id());
  if (remap && remap->remap_type() == image::PROCFS)
    return make_dead(restorer, reg, remap->remap_id());
  auto open = [&restorer, &reg](const Pids&) {
    UniqueFd fd = open_path(restorer, reg, reg.flags());
    set_position(fd.get(), reg);
    return fd;
  };
  bool later = is_of_process(restorer, reg);
  UniqueFd fd = later ? restorer.later().open(open) : open({});
  if (reg.flags() & O_PATH) return fd;
  auto own = [&restorer, &reg, number = fd.get()] { restorer.restore_owner(number, reg.fown()); };
  later ? restorer.when_all_are_made(own) : own();
  return fd;
}

// O_NOFOLLOW stays with an open file, but means the link when one is opened
// through /proc: such a file is opened by its path, and must be the one looked at.
UniqueFd open_unfollowed(Restorer& restorer, const image::RegFileEntry& entry, int node,
                         uint32_t flags) {
  UniqueFd fd = kernel::open_in(restorer.root_of(entry), below_root(entry.name()),
                                static_cast<int>(lasting_flags(flags) | O_NOCTTY | O_NONBLOCK),
                                RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
  struct statx looked_at = kernel::stat_fd(node), opened = kernel::stat_fd(fd.get());
  if (looked_at.stx_ino != opened.stx_ino || looked_at.stx_dev_major != opened.stx_dev_major ||
      looked_at.stx_dev_minor != opened.stx_dev_minor)
    throw Error("restore file", entry.name()).because("it was replaced meanwhile");
  set_status_flags(fd.get(), flags);
  return fd;
}

}  // namespace

void check_same(const image::RegFileEntry& entry, const struct statx& stat, mode_t type) {
  auto differs = [&](const std::string& cause) {
    return Error("restore file", entry.name())
        .because(cause)
        .hint("bring back the file as it was when the container was checkpointed");
  };
  bool right_type = type ? (stat.stx_mode & S_IFMT) == type : harmless(stat);
  if (!right_type && !(entry.flags() & O_PATH))
    throw differs(fmt::format("it is now of another type (mode {:o})", stat.stx_mode));
  if (entry.has_mode() && entry.mode() != stat.stx_mode)
    throw differs(fmt::format("its mode is {:o}, it was {:o}", stat.stx_mode, entry.mode()));
  if (entry.has_size() && S_ISREG(stat.stx_mode) && entry.size() != stat.stx_size)
    throw differs(fmt::format("its size is {}, it was {}", stat.stx_size, entry.size()));
}

std::optional<Objection> regular_objection(const Probe& probe, const Surroundings& around) {
  if (is_runtimes(probe, around)) return std::nullopt;
  return standing_of(probe, around).objection;
}

void describe_path(Dumper& dumper, const OpenFile& file, image::RegFileEntry& entry, uint32_t id) {
  const Probe& probe = file.probe;
  Standing standing = standing_of(probe, dumper.around());
  if (standing.objection)
    throw Error("dump", process_name(probe.pid))
        .because("it " + standing.objection->what)
        .hint(standing.objection->remedy);
  entry.set_id(id);
  entry.set_flags(probe.flags());
  entry.set_name(standing.name);
  entry.set_mnt_id(standing.mount);
  entry.set_mode(probe.stat.stx_mode);
  if (probe.is(S_IFREG) && size_matters(probe.flags())) entry.set_size(probe.stat.stx_size);
  bool unseekable = probe.is(S_IFCHR) && probe.stat.stx_rdev_minor == kmsg_minor;
  entry.set_pos(unseekable ? UINT64_MAX : static_cast<uint64_t>(probe.info.pos));
  *entry.mutable_fown() =
      dump_owner(file.fd.get(), probe.number < 0 ? O_PATH : probe.flags(), dumper.plan().root);
  if (standing.ghost) dump_ghost(dumper, file, id);
  if (!standing.dead) return;
  image::RemapFilePathEntry remap;
  remap.set_orig_id(id);
  remap.set_remap_id(static_cast<uint32_t>(*standing.dead));
  remap.set_remap_type(image::PROCFS);
  dumper.writer().append("remap-fpath", remap);
}

UniqueFd find_path(Restorer& restorer, const image::RegFileEntry& entry, mode_t type) {
  UniqueFd node;
  if (const image::RemapFilePathEntry* remap = remap_of(restorer, entry.id())) {
    node = duplicate(stand_in(restorer, entry, *remap));
  } else if (int hidden = restorer.hidden(entry.id()); hidden >= 0) {
    node = duplicate(hidden);
  } else {
    uint32_t nofollow = S_ISLNK(entry.mode()) ? O_NOFOLLOW : 0;
    long fd = kernel::try_open_in(restorer.root_of(entry), below_root(entry.name()),
                                  static_cast<int>(O_PATH | nofollow),
                                  RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
    node.reset(static_cast<int>(kernel::must(fd, "restore file", entry.name())));
  }
  check_same(entry, kernel::stat_fd(node.get()), type);
  return node;
}

UniqueFd open_path(Restorer& restorer, const image::RegFileEntry& entry, uint32_t flags) {
  // Inherited files go by their path without the leading slash, or by the key
  // that they were dumped under.
  std::string key = entry.ext() || entry.name().empty() ? entry.name() : entry.name().substr(1);
  if (int given = restorer.inherited(key); given >= 0) return duplicate(given);
  if (entry.ext())
    throw Error("restore external file", entry.name())
        .because("no descriptor was given for it")
        .hint("pass one with --inherit-fd 'fd[N]:" + entry.name() + "'");
  UniqueFd node = find_path(restorer, entry, 0);
  if (flags & O_PATH) return node;
  if ((flags & O_NOFOLLOW) && !remap_of(restorer, entry.id()) && restorer.hidden(entry.id()) < 0)
    return open_unfollowed(restorer, entry, node.get(), flags);
  return reopen(node.get(), flags, entry.name());
}

const FileKind regular_kind = {"a file", image::REG, claims, regular_objection, dump, make};

}  // namespace stasis::engine::files
