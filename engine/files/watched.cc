#include "engine/files/watched.h"

#include <fmt/core.h>
#include <sys/inotify.h>
#include <sys/syscall.h>

#include <array>
#include <cstring>

#include "base/text.h"
#include "engine/files/names.h"
#include "engine/files/reopen.h"
#include "engine/files/standing.h"
#include "engine/mounts/spaces.h"
#include "engine/plan.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

namespace {

// A file is the watched one if the kernel says the same of it when we watch it:
// device and inode numbers of stat() are others on overlay and btrfs.
class Comparison {
 public:
  Comparison()
      : inotify_(static_cast<int>(
            kernel::must(kernel::call(SYS_inotify_init1, IN_CLOEXEC), "make", "an inotify"))) {}

  bool is(const WatchedInode& inode, int fd) {
    std::string path = fmt::format("/proc/self/fd/{}", fd);
    long wd = kernel::call(SYS_inotify_add_watch, inotify_.get(), path.c_str(), IN_DELETE_SELF);
    if (wd < 0) return false;
    auto info = kernel::parse_fdinfo(
        kernel::read_file(fmt::format("/proc/self/fdinfo/{}", inotify_.get())));
    kernel::call(SYS_inotify_rm_watch, inotify_.get(), wd);
    const std::string* line = info.find("inotify");
    return line && WatchedInode(*line).identity() == inode.identity();
  }

 private:
  UniqueFd inotify_;
};

struct FileHandle {
  unsigned bytes = 0;
  int type = 0;
  std::array<unsigned char, 128> handle{};
};

// Its path by its handle, where the file system finds files by theirs. Empty
// where it doesn't, or has no connected name at hand.
std::string path_by_handle(const WatchedInode& inode, int mount_root) {
  image::FhEntry entry = inode.handle();
  if (entry.bytes() == 0) return {};
  FileHandle handle{entry.bytes(), static_cast<int>(entry.type()), {}};
  memcpy(handle.handle.data(), entry.handle().data(), entry.bytes());
  long directory = try_reopen(mount_root, O_RDONLY | O_DIRECTORY);
  if (directory < 0) return {};
  UniqueFd held(static_cast<int>(directory));
  long found = kernel::call(SYS_open_by_handle_at, held.get(), &handle, O_PATH | O_CLOEXEC);
  if (found < 0) return {};
  UniqueFd file(static_cast<int>(found));
  return kernel::read_link(fmt::format("/proc/self/fd/{}", file.get()));
}

// The place in one mount that is visible, if it is there.
std::optional<WatchedPlace> find_on(const WatchedInode& inode, const mounts::Space& space,
                                    const mountmap::Mount& mount, const Surroundings& around,
                                    Comparison& comparison) {
  constexpr uint64_t in_root = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  int root = around.root(space);
  auto open = [&](const std::string& path) {
    long fd = kernel::try_open_in(root, path, O_PATH | O_NOFOLLOW, in_root);
    return UniqueFd(fd < 0 ? -1 : static_cast<int>(fd));
  };
  auto visible = [&](const std::string& path) { return space.table->at(path)->id == mount.id; };
  if (!visible(mount.mountpoint)) return std::nullopt;
  UniqueFd top = open(mount.mountpoint);
  if (!top) return std::nullopt;
  auto id = static_cast<uint32_t>(mount.id);
  if (comparison.is(inode, top.get())) return WatchedPlace{mount.mountpoint, id};
  if (!S_ISDIR(kernel::stat_fd(top.get()).stx_mode)) return std::nullopt;
  std::string path = path_by_handle(inode, top.get());
  if (path.starts_with('/') && visible(path))
    if (UniqueFd file = open(path); file && comparison.is(inode, file.get()))
      return WatchedPlace{path, id};
  if (path.ends_with(" (deleted)")) return WatchedPlace{"", id};
  Sought sought{inode.inode(), mount.fstype == "overlay",
                [&](int fd) { return comparison.is(inode, fd); }};
  auto below = find_beneath(top.get(), sought);
  if (!below) return std::nullopt;
  return WatchedPlace{(mount.mountpoint == "/" ? "" : mount.mountpoint) + *below, id};
}

}  // namespace

WatchedInode::WatchedInode(std::string_view line) {
  for (std::string_view word : text::words(line)) {
    std::string_view key = text::next(word, ':');
    fields_.emplace(key, word);
  }
  for (const char* key : {"wd", "ino", "sdev", "mask"}) number(key);
}

uint64_t WatchedInode::number(std::string_view key) const {
  auto field = fields_.find(key);
  auto value = field == fields_.end() ? std::nullopt : text::to_int<uint64_t>(field->second, 16);
  if (!value) throw Error("read a watch", std::string(key)).because("not as the kernel writes it");
  return *value;
}

image::FhEntry WatchedInode::handle() const {
  constexpr int words = 16;  // as many as CRIU always has
  image::FhEntry entry;
  std::array<uint64_t, words> bytes{};
  auto handle = fields_.find("f_handle");
  size_t size = handle == fields_.end() ? 0 : number("fhandle-bytes");
  if (size > sizeof bytes || (size > 0 && handle->second.size() < size * 2))
    throw Error("read a watch", "f_handle").because("not as the kernel writes it");
  for (size_t i = 0; i < size; ++i) {
    auto byte = text::to_int<unsigned>(std::string_view(handle->second).substr(i * 2, 2), 16);
    if (!byte) throw Error("read a watch", "f_handle").because("not as the kernel writes it");
    reinterpret_cast<unsigned char*>(bytes.data())[i] = static_cast<unsigned char>(*byte);
  }
  entry.set_bytes(static_cast<uint32_t>(size));
  entry.set_type(size == 0 ? 0 : static_cast<uint32_t>(number("fhandle-type")));
  entry.mutable_handle()->Add(bytes.begin(), bytes.end());
  return entry;
}

std::string WatchedInode::identity() const {
  auto handle = fields_.find("f_handle");
  return fmt::format("{:x} {:x} {}", inode(), number("sdev"),
                     handle == fields_.end() ? "" : handle->second);
}

WatchedPlace find_watched(const WatchedInode& inode, const Surroundings& around) {
  Comparison comparison;
  std::optional<WatchedPlace> deleted;
  for (const mounts::Space& space : mounts::spaces_of(around.plan()))
    for (const mountmap::Mount& mount : space.table->mounts()) {
      if (mount.major != inode.major() || mount.minor != inode.minor()) continue;
      if (is_remote(mount.fstype)) continue;
      auto place = find_on(inode, space, mount, around, comparison);
      if (place && !place->path.empty()) return *place;
      if (place) deleted = place;
    }
  if (deleted) return *deleted;
  throw Error("find what is watched",
              fmt::format("inode {} of device {}:{}", inode.inode(), inode.major(), inode.minor()))
      .because("no file that the container sees is it")
      .hint("stop watching it before the checkpoint");
}

}  // namespace stasis::engine::files
