#include "hook/checkpoint_archive.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/statfs.h>
#include <sys/syscall.h>

#include <cerrno>
#include <utility>

#include "base/scope_exit.h"
#include "hook/container_files.h"
#include "hook/image_archive.h"
#include "kernel/directories.h"
#include "kernel/fs.h"
#include "oci/state.h"

namespace stasis::hook {

using engine::mounts::ArchiveReader;

namespace {

constexpr uint64_t most_entries = 1 << 20;
constexpr std::string_view images = "checkpoint/";

// Of what is free, a tenth stays so.
uint64_t room_in(int directory) {
  struct statfs fs{};
  kernel::must(kernel::call(SYS_fstatfs, directory, &fs), "look at", unpacked_dir);
  return static_cast<uint64_t>(fs.f_bavail) * static_cast<uint64_t>(fs.f_bsize) / 10 * 9;
}

// "core-1.img" of "checkpoint/core-1.img"; empty: it is no image.
std::string image_name(std::string_view path, std::string_view below) {
  if (!path.starts_with(below)) return "";
  path.remove_prefix(below.size());
  if (!path.ends_with(".img") || path.find('/') != path.npos) return "";
  return std::string(path);
}

// An archive is believed no more than any other image. All that it can do here is
// to create files with plain names in one directory that was empty, and only so
// many, and so large ones.
class Unpacker {
 public:
  Unpacker(int archive, int directory, std::string name)
      : archive_(archive),
        directory_(directory),
        name_(std::move(name)),
        room_(room_in(directory)) {}

  void run() {
    auto tar = open_archive(archive_, name_);
    take(tar, images);
    if (saved_image_ && !found_) take_blobs();
    if (found_) return;
    Error error = Error("unpack", name_).because("it holds no checkpoint/inventory.img");
    throw pod_ ? error.hint("it is a pod's: name the archive of one of its containers")
               : error.hint(
                     "name an archive that podman, CRI-O or containerd made of a container, an "
                     "image made of one, or a checkpoint's directory");
  }

 private:
  void take(ArchiveReader& tar, std::string_view below);
  void take_blobs();
  void add(ArchiveReader& tar, const std::string& file);

  int archive_, directory_;
  std::string name_;
  uint64_t room_;
  uint64_t entries_ = 0;
  bool found_ = false, saved_image_ = false, pod_ = false;
};

void Unpacker::add(ArchiveReader& tar, const std::string& file) {
  if (!tar.is_file()) tar.fail("it is no file");
  constexpr int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;
  UniqueFd out = kernel::open_at(directory_, file, flags, 0600);
  uint64_t size = tar.size();
  if (size > room_) tar.fail(fmt::format("there is no room for it in {}", unpacked_dir));
  room_ -= size;
  tar.copy_content(out.get(), file);
}

void Unpacker::take(ArchiveReader& tar, std::string_view below) {
  while (tar.next()) {
    if (++entries_ > most_entries) tar.fail("the archive has too many entries");
    std::string file = image_name(tar.path(), below);
    found_ |= file == "inventory.img";
    saved_image_ |= tar.path() == "index.json" || tar.path() == "manifest.json";
    pod_ |= tar.path() == "pod.options";
    if (file.empty() && is_of_container_files(tar.path())) file = tar.path();
    if (!file.empty()) add(tar, file);
  }
}

void Unpacker::take_blobs() {
  CheckpointBlobs blobs = checkpoint_blobs(archive_, name_);
  auto tar = open_archive(archive_, name_);
  while (tar.next()) {
    if (!blobs.paths.contains(tar.path()) || !tar.is_file()) continue;
    ArchiveReader blob(tar, name_ + " (" + tar.path() + ")");
    take(blob, blobs.bare ? "" : images);
  }
}

}  // namespace

UniqueFd unpack_checkpoint(int archive, const std::string& name, const std::string& id, Log& log,
                           const std::string& place) {
  remove_unpacked(id, place);  // of a start that was killed
  kernel::make_directories(place, 0700);
  std::string path = place + "/" + id;
  kernel::must(kernel::call(SYS_mkdirat, AT_FDCWD, path.c_str(), 0700), "create", path);
  ScopeExit remove([&] {
    try {
      remove_unpacked(id, place);
    } catch (const Error& error) {
      log.warn("{}", error.what());
    }
  });
  UniqueFd directory = kernel::open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  Unpacker(archive, directory.get(), name).run();
  remove.dismiss();
  return directory;
}

void remove_unpacked(const std::string& id, const std::string& place) {
  oci::check_container_id(id);
  std::string path = place + "/" + id;
  long fd = kernel::call(SYS_openat, AT_FDCWD, path.c_str(),
                         O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd == -ENOENT) return;
  UniqueFd directory(static_cast<int>(kernel::must(fd, "remove", path)));
  try {
    for (const std::string& file : kernel::entries(directory.get(), path))
      kernel::call(SYS_unlinkat, directory.get(), file.c_str(), 0);
  } catch (const Error& error) {
    if (error.code() != ENOENT) throw;  // of watcher and runtime the other one was quicker
  }
  long removed = kernel::call(SYS_unlinkat, AT_FDCWD, path.c_str(), AT_REMOVEDIR);
  if (removed != -ENOENT) kernel::must(removed, "remove", path);
}

}  // namespace stasis::hook
