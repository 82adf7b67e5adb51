#include <dirent.h>
#include <sys/file.h>
#include <sys/syscall.h>

#include <cstring>

#include "base/scope_exit.h"
#include "engine/image/image.h"
#include "kernel/fs.h"

namespace stasis::image {
namespace {

constexpr const char* staging_name = ".stasis-partial";
constexpr uint64_t beneath = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
constexpr int directory = O_RDONLY | O_DIRECTORY | O_NOFOLLOW;

// Images that are there or not there; one left by an earlier checkpoint in the
// same directory would be read as part of ours. The others are named by an id.
constexpr const char* optional_stems[] = {
    "remap-fpath", "memfd",  "pipes-data", "fifo-data", "sk-queues", "tty-info", "tty-data",
    "filelocks",   "cgroup", "seccomp",    "apparmor",  "cpuinfo",   "stasis"};

std::string file_name(const std::string& stem) { return stem + ".img"; }

void put_word(std::string& out, uint32_t value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

// Empties directory `dir`, which holds only files; what can't be removed stays.
void remove_files(int dir) {
  alignas(dirent64) char buffer[4096];
  kernel::call(SYS_lseek, dir, 0, SEEK_SET);
  for (;;) {
    long size = kernel::call(SYS_getdents64, dir, buffer, sizeof buffer);
    if (size <= 0) return;
    for (long at = 0; at < size;) {
      const auto* entry = reinterpret_cast<const dirent64*>(buffer + at);
      at += entry->d_reclen;
      kernel::call(SYS_unlinkat, dir, entry->d_name, 0);
    }
  }
}

}  // namespace

ImageWriter::ImageWriter(int dir, bool durable) : dir_(dir), durable_(durable) {
  long made = kernel::call(SYS_mkdirat, dir_, staging_name, 0700);
  if (made != -EEXIST) kernel::must(made, "create directory", staging_name);
  try {
    staging_ = kernel::open_in(dir_, staging_name, directory, beneath);
  } catch (...) {
    if (made == 0) kernel::call(SYS_unlinkat, dir_, staging_name, AT_REMOVEDIR);
    throw;
  }
  if (made == -EEXIST) remove_files(staging_.get());  // a dump was killed here
}

ImageWriter::~ImageWriter() {
  if (published_) return;
  for (const std::string& stem : moved_)
    kernel::call(SYS_unlinkat, dir_, file_name(stem).c_str(), 0);
  for (const auto& [stem, file] : files_)
    kernel::call(SYS_unlinkat, staging_.get(), file_name(stem).c_str(), 0);
  kernel::call(SYS_unlinkat, dir_, staging_name, AT_REMOVEDIR);
}

int ImageWriter::create(const std::string& stem) {
  if (files_.count(stem)) throw Error("write image", file_name(stem)).because("written already");
  constexpr int flags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW;
  UniqueFd file = kernel::open_in(staging_.get(), file_name(stem), flags, beneath, 0600);
  int fd = file.get();
  files_.emplace(stem, std::move(file));
  return fd;
}

std::string& ImageWriter::buffer(const std::string& stem) {
  auto [at, is_new] = buffers_.try_emplace(stem);
  if (is_new) {
    const Format* format = format_of(stem);
    if (!format) throw Error("write image", file_name(stem)).because("of no known kind");
    if (format->magic != inventory_magic) put_word(at->second, common_magic);
    put_word(at->second, format->magic);
  }
  return at->second;
}

void ImageWriter::append(const std::string& stem, const google::protobuf::Message& entry,
                         std::string_view payload) {
  std::string& out = buffer(stem);
  if (!entry.IsInitialized())
    throw Error("write image", file_name(stem))
        .because("an entry lacks " + entry.InitializationErrorString());
  put_word(out, static_cast<uint32_t>(entry.ByteSizeLong()));
  entry.AppendPartialToString(&out);
  out.append(payload);
}

void ImageWriter::create_empty(const std::string& stem) { buffer(stem); }

int ImageWriter::raw(const std::string& stem) { return create(stem); }

void ImageWriter::flush() {
  for (const auto& [stem, bytes] : buffers_)
    kernel::write_all(create(stem), bytes, file_name(stem));
  buffers_.clear();
}

// From here on the directory holds no checkpoint until ours is complete.
void ImageWriter::remove_previous() {
  long gone = kernel::call(SYS_unlinkat, dir_, "inventory.img", 0);
  if (gone == -ENOENT) return;
  kernel::must(gone, "remove", "inventory.img");
  for (const char* stem : optional_stems)
    kernel::call(SYS_unlinkat, dir_, file_name(stem).c_str(), 0);
}

void ImageWriter::publish(const InventoryEntry& inventory) {
  append("inventory", inventory);
  flush();
  if (durable_) {
    // All start on their way before the first is waited for.
    for (const auto& [stem, file] : files_)
      kernel::call(SYS_sync_file_range, file.get(), 0, 0, SYNC_FILE_RANGE_WRITE);
    for (const auto& [stem, file] : files_)
      kernel::must(kernel::call(SYS_fsync, file.get()), "write to disk", file_name(stem));
  }
  // A caller may have its own lock by this descriptor, which it finds again.
  if (kernel::call(SYS_flock, dir_, LOCK_EX | LOCK_NB) == -EWOULDBLOCK)
    throw Error("write the checkpoint", "into its directory")
        .because("a restore is reading the one that is there")
        .hint("wait for its end, or choose another directory");
  ScopeExit read_again([&] { kernel::call(SYS_flock, dir_, LOCK_SH); });
  remove_previous();
  auto move = [&](const std::string& stem) {
    std::string name = file_name(stem);
    moved_.push_back(stem);
    kernel::must(kernel::call(SYS_renameat, staging_.get(), name.c_str(), dir_, name.c_str()),
                 "move into place", name);
  };
  for (const auto& [stem, file] : files_)
    if (stem != "inventory") move(stem);
  if (durable_) kernel::must(kernel::call(SYS_fsync, dir_), "write to disk", "the image directory");
  move("inventory");
  published_ = true;
  kernel::call(SYS_unlinkat, dir_, staging_name, AT_REMOVEDIR);
  if (durable_) kernel::must(kernel::call(SYS_fsync, dir_), "write to disk", "the image directory");
}

}  // namespace stasis::image
