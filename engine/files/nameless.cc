#include "engine/files/nameless.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <vector>

#include "engine/files/dumper.h"
#include "engine/files/reopen.h"
#include "engine/files/restorer.h"
#include "engine/image/checkpoint.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

namespace {

constexpr uint64_t whole_below = 12288;  // larger ones are written in pieces, without holes
constexpr uint64_t resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;

std::string stem_of(uint32_t ghost) { return fmt::format("ghost-file-{:x}", ghost); }

std::string read_range(int fd, uint64_t offset, uint64_t size, const std::string& name) {
  std::string bytes(size, '\0');
  for (uint64_t done = 0; done < size;) {
    long n =
        kernel::must(kernel::call(SYS_pread64, fd, bytes.data() + done, size - done, offset + done),
                     "read", name);
    if (n == 0) throw Error("read", name).because("it has become shorter");
    done += static_cast<uint64_t>(n);
  }
  return bytes;
}

void write_chunks(image::ImageWriter& writer, const std::string& stem, int fd, uint64_t size,
                  const std::string& name) {
  constexpr uint64_t piece = 1 << 20;
  for (uint64_t hole = 0; hole < size;) {
    long data = kernel::call(SYS_lseek, fd, hole, SEEK_DATA);
    if (data == -ENXIO) break;
    kernel::must(data, "find the data of", name);
    hole = static_cast<uint64_t>(
        kernel::must(kernel::call(SYS_lseek, fd, data, SEEK_HOLE), "find the holes of", name));
    for (auto at = static_cast<uint64_t>(data); at < hole; at += piece) {
      image::GhostChunkEntry chunk;
      chunk.set_off(at);
      chunk.set_len(std::min(piece, hole - at));
      writer.append(stem, chunk, read_range(fd, at, chunk.len(), name));
    }
  }
}

void set_time(image::Timeval& time, const statx_timestamp& stamp) {
  time.set_tv_sec(static_cast<uint64_t>(stamp.tv_sec));
  time.set_tv_usec(stamp.tv_nsec / 1000);
}

void write_ghost(Dumper& dumper, const OpenFile& file, uint32_t ghost) {
  const struct statx& stat = file.probe.stat;
  const std::string stem = stem_of(ghost);
  image::GhostFileEntry entry;
  entry.set_uid(dumper.ids().uid_inside(stat.stx_uid, file.probe.link));
  entry.set_gid(dumper.ids().gid_inside(stat.stx_gid, file.probe.link));
  entry.set_mode(stat.stx_mode);
  // As the kernel has it: watches of inotify are of the same number.
  entry.set_dev(stat.stx_dev_major << 20 | stat.stx_dev_minor);
  entry.set_ino(stat.stx_ino);
  set_time(*entry.mutable_atim(), stat.stx_atime);
  set_time(*entry.mutable_mtim(), stat.stx_mtime);
  if (S_ISLNK(stat.stx_mode)) entry.set_symlnk_target(kernel::read_link_at(file.fd.get(), ""));
  if (!S_ISREG(stat.stx_mode)) return dumper.writer().append(stem, entry);
  // The duplicate may be open for writing only.
  UniqueFd content = reopen(file.fd.get(), O_RDONLY, file.probe.link);
  if (stat.stx_size < whole_below)
    return dumper.writer().append(stem, entry,
                                  read_range(content.get(), 0, stat.stx_size, file.probe.link));
  entry.set_chunks(true);
  entry.set_size(stat.stx_size);
  dumper.writer().append(stem, entry);
  write_chunks(dumper.writer(), stem, content.get(), stat.stx_size, file.probe.link);
}

// A directory beneath the container's root in which a file can be made for a
// moment. Directories that are missing are made, and removed again.
class Place {
 public:
  Place(int root, const std::string& name) : name_(name) {
    size_t slash = name.rfind('/');
    if (slash == std::string::npos || slash + 1 == name.size())
      throw Error("restore deleted file", name).because("its path is not absolute");
    base_ = name.substr(slash + 1);
    parent_ = kernel::open_in(root, ".", O_PATH | O_DIRECTORY, resolve);
    for (size_t at = 1; at <= slash;) {
      size_t end = std::min(name.find('/', at), slash);
      enter(root, name.substr(1, end - 1), name.substr(at, end - at));
      at = end + 1;
    }
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  ~Place() {
    while (!made_.empty()) {
      kernel::call(SYS_unlinkat, made_.back().first.get(), made_.back().second.c_str(),
                   AT_REMOVEDIR);
      made_.pop_back();
    }
  }

  int dir() const { return parent_.get(); }
  const char* base() const { return base_.c_str(); }
  // Another file has the name now: take one beside it.
  void avoid_collision() { base_ += ".stasis"; }

 private:
  void enter(int root, const std::string& path, const std::string& component) {
    constexpr int flags = O_PATH | O_DIRECTORY;
    long fd = kernel::try_open_in(root, path, flags, resolve);
    if (fd == -ENOENT) {
      kernel::must(kernel::call(SYS_mkdirat, parent_.get(), component.c_str(), 0755),
                   "make the directory of deleted file", name_);
      made_.emplace_back(duplicate(parent_.get()), component);
      fd = kernel::try_open_in(root, path, flags, resolve);
    }
    parent_.reset(static_cast<int>(kernel::must(fd, "open the directory of deleted file", name_)));
  }

  std::string name_, base_;
  UniqueFd parent_;
  std::vector<std::pair<UniqueFd, std::string>> made_;
};

long make_node(const image::GhostFileEntry& entry, const Place& place) {
  switch (entry.mode() & S_IFMT) {
    case S_IFDIR:
      return kernel::call(SYS_mkdirat, place.dir(), place.base(), 0700);
    case S_IFIFO:
      return kernel::call(SYS_mknodat, place.dir(), place.base(), S_IFIFO | 0600, 0);
    case S_IFREG:
      return kernel::call(SYS_mknodat, place.dir(), place.base(), S_IFREG | 0600, 0);
    case S_IFLNK:
      return kernel::call(SYS_symlinkat, entry.symlnk_target().c_str(), place.dir(), place.base());
    default:
      return -EPERM;
  }
}

void fill(image::Reader& reader, const image::GhostFileEntry& entry, int fd,
          const std::string& name) {
  if (!entry.chunks()) {
    std::string_view bytes = reader.payload(reader.remaining());
    return kernel::pwrite_all(fd, bytes.data(), bytes.size(), 0, name);
  }
  kernel::must(kernel::call(SYS_ftruncate, fd, entry.size()), "set the size of", name);
  for (image::GhostChunkEntry chunk; reader.next(chunk);) {
    if (chunk.off() > entry.size() || chunk.len() > entry.size() - chunk.off())
      throw reader.error("a piece beyond the end of the file");
    std::string_view bytes = reader.payload(chunk.len());
    kernel::pwrite_all(fd, bytes.data(), bytes.size(), static_cast<off_t>(chunk.off()), name);
  }
}

void set_attributes(const image::GhostFileEntry& entry, const userns::IdMap& ids, int node,
                    const std::string& name) {
  std::string path = fmt::format("/proc/self/fd/{}", node);
  kernel::must(kernel::call(SYS_fchownat, node, "", ids.uid_outside(entry.uid(), name),
                            ids.gid_outside(entry.gid(), name), AT_EMPTY_PATH),
               "set the owner of", name);
  if (S_ISLNK(entry.mode())) return;
  kernel::must(kernel::call(SYS_fchmodat, AT_FDCWD, path.c_str(), entry.mode() & 07777),
               "set the mode of", name);
  if (!entry.has_atim() || !entry.has_mtim()) return;
  timespec times[2] = {{static_cast<time_t>(entry.atim().tv_sec()),
                        static_cast<long>(entry.atim().tv_usec()) * 1000},
                       {static_cast<time_t>(entry.mtim().tv_sec()),
                        static_cast<long>(entry.mtim().tv_usec()) * 1000}};
  kernel::must(kernel::call(SYS_utimensat, AT_FDCWD, path.c_str(), times, 0), "set the times of",
               name);
}

// Right after its making, before it is filled: whatever happens, nothing stays.
UniqueFd open_and_unlink(const Place& place, int flags, const std::string& name) {
  long node = kernel::call(SYS_openat, place.dir(), place.base(), O_PATH | O_NOFOLLOW | O_CLOEXEC);
  UniqueFd held(node < 0 ? -1 : static_cast<int>(node));
  long unlinked = kernel::call(SYS_unlinkat, place.dir(), place.base(), flags);
  if (unlinked < 0) kernel::call(SYS_unlinkat, place.dir(), place.base(), flags);
  kernel::must(node, "open deleted file", name);
  kernel::must(unlinked, "unlink deleted file", name);
  return held;
}

UniqueFd make_ghost(Restorer& restorer, const image::RegFileEntry& file, uint32_t ghost) {
  const std::string& name = file.name();
  image::Reader reader = restorer.image().dir.read(stem_of(ghost));
  image::GhostFileEntry entry;
  if (!reader.next(entry)) throw reader.error("has no entry");
  Place place(restorer.root_of(file), name);
  long made = make_node(entry, place);
  while (made == -EEXIST) {
    place.avoid_collision();
    made = make_node(entry, place);
  }
  kernel::must(made, "make deleted file", name);
  UniqueFd node = open_and_unlink(place, S_ISDIR(entry.mode()) ? AT_REMOVEDIR : 0, name);
  if (S_ISREG(entry.mode())) fill(reader, entry, reopen(node.get(), O_WRONLY, name).get(), name);
  set_attributes(entry, restorer.ids(), node.get(), name);
  return node;
}

// CRIU's --link-remap: the file has another name, which the image knows. Its
// own name is put back for the moment of opening.
UniqueFd make_linked(Restorer& restorer, const image::RegFileEntry& file, uint32_t linked) {
  const std::string& name = file.name();
  const image::RegFileEntry& other = restorer.entry(linked).reg();
  UniqueFd node = kernel::open_in(restorer.root_of(other), other.name().substr(1),
                                  O_PATH | O_NOFOLLOW, resolve);
  Place place(restorer.root_of(file), name);
  auto link = [&] {
    return kernel::call(SYS_linkat, node.get(), "", place.dir(), place.base(), AT_EMPTY_PATH);
  };
  long made = link();
  while (made == -EEXIST) {
    place.avoid_collision();
    made = link();
  }
  kernel::must(made, "link deleted file", name);
  // A name that CRIU gave it for the time being goes, too, when all is done.
  if (Place temporary(restorer.root_of(other), other.name());
      std::string_view(temporary.base()).starts_with("link_remap."))
    restorer.temporary_names().emplace_back(duplicate(temporary.dir()), temporary.base());
  return open_and_unlink(place, 0, name);
}

}  // namespace

void dump_ghost(Dumper& dumper, const OpenFile& file, uint32_t id) {
  auto [ghost, is_new] = dumper.ghosts().try_emplace({file.probe.device(), file.probe.stat.stx_ino},
                                                     dumper.ghosts().size() + 1);
  if (is_new) write_ghost(dumper, file, ghost->second);
  image::RemapFilePathEntry remap;
  remap.set_orig_id(id);
  remap.set_remap_id(ghost->second);
  remap.set_remap_type(image::GHOST);
  dumper.writer().append("remap-fpath", remap);
}

int stand_in(Restorer& restorer, const image::RegFileEntry& file,
             const image::RemapFilePathEntry& remap) {
  // Old images mark a ghost by the highest bit of its id.
  constexpr uint32_t ghost_bit = 1U << 31;
  uint32_t id = remap.remap_id();
  image::RemapType type = remap.remap_type();
  if (!remap.has_remap_type()) type = (id & ghost_bit) ? image::GHOST : image::LINKED;
  if (!remap.has_remap_type()) id &= ~ghost_bit;
  UniqueFd& kept = restorer.nameless()[{type, id}];
  if (kept) return kept.get();
  switch (type) {
    case image::GHOST:
      kept = make_ghost(restorer, file, id);
      break;
    case image::LINKED:
      kept = make_linked(restorer, file, id);
      break;
    default:
      throw Error("restore file", file.name())
          .because(fmt::format("it belonged to process {}, which had ended", id));
  }
  return kept.get();
}

}  // namespace stasis::engine::files
