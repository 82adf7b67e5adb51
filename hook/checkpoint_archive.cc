#include "hook/checkpoint_archive.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/statfs.h>
#include <sys/syscall.h>

#include <utility>

#include "base/scope_exit.h"
#include "engine/mounts/archive_reader.h"
#include "kernel/directories.h"
#include "kernel/fs.h"
#include "oci/state.h"

namespace stasis::hook {

namespace {

constexpr uint64_t most_entries = 1 << 20;
constexpr std::string_view images = "checkpoint/";

// Of what is free, a tenth stays so.
uint64_t room_in(int directory) {
  struct statfs fs{};
  kernel::must(kernel::call(SYS_fstatfs, directory, &fs), "look at", unpacked_dir);
  return static_cast<uint64_t>(fs.f_bavail) * static_cast<uint64_t>(fs.f_bsize) / 10 * 9;
}

// An archive is believed no more than any other image. All that it can do is to
// create files with plain names in one directory that was empty, and only so
// many, and so large ones.
class Unpacker {
 public:
  Unpacker(int in, int directory, std::string name)
      : directory_(directory),
        name_(std::move(name)),
        room_(room_in(directory)),
        archive_(in, "unpack", name_,
                 {archive_read_support_filter_gzip, archive_read_support_filter_zstd}) {}
  // The entries that were passed over.
  std::vector<std::string> run();

 private:
  void add(archive_entry* entry, const std::string& file);

  int directory_;
  std::string name_;
  uint64_t room_;
  engine::mounts::ArchiveReader archive_;
};

// "core-1.img" of "./checkpoint/core-1.img"; empty: it is no image.
std::string image_name(std::string_view path) {
  while (path.starts_with("./")) path.remove_prefix(2);
  if (!path.starts_with(images)) return "";
  path.remove_prefix(images.size());
  if (!path.ends_with(".img") || path.find('/') != path.npos) return "";
  return std::string(path);
}

void Unpacker::add(archive_entry* entry, const std::string& file) {
  if (archive_entry_hardlink(entry) || archive_entry_filetype(entry) != AE_IFREG)
    archive_.fail(file, "an image is no file");
  constexpr int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;
  UniqueFd out = kernel::open_at(directory_, file, flags, 0600);
  int64_t size = archive_entry_size(entry);
  if (size < 0 || static_cast<uint64_t>(size) > room_)
    archive_.fail(file, fmt::format("there is no room for it in {}", unpacked_dir));
  room_ -= static_cast<uint64_t>(size);
  archive_.copy_content(entry, out.get(), file, file);
}

std::vector<std::string> Unpacker::run() {
  std::vector<std::string> others;
  bool found = false;
  uint64_t count = 0;
  while (archive_entry* entry = archive_.next()) {
    if (count++ == most_entries) archive_.fail("", "it has too many entries");
    const char* path = archive_entry_pathname(entry);
    std::string file = image_name(path ? path : "");
    found |= file == "inventory.img";
    if (!file.empty())
      add(entry, file);
    else if (path)
      others.emplace_back(path);
  }
  if (!found)
    throw Error("unpack", name_)
        .because("it holds no checkpoint/inventory.img")
        .hint(
            "name an archive of podman container checkpoint --export, or a checkpoint's directory");
  return others;
}

// What `podman container restore` would put into the container's root.
void tell(const std::vector<std::string>& others, Log& log) {
  for (const std::string& path : others)
    if (path == "rootfs-diff.tar" || path == "deleted.files")
      log.warn("{} in the archive is not applied: the container has the files of its own image",
               path);
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
  tell(Unpacker(archive, directory.get(), name).run(), log);
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
  for (const std::string& file : kernel::entries(directory.get(), path))
    kernel::call(SYS_unlinkat, directory.get(), file.c_str(), 0);
  long removed = kernel::call(SYS_unlinkat, AT_FDCWD, path.c_str(), AT_REMOVEDIR);
  if (removed != -ENOENT) kernel::must(removed, "remove", path);
}

}  // namespace stasis::hook
