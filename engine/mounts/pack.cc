#include <archive.h>
#include <archive_entry.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <exception>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "base/text.h"
#include "engine/mounts/archive.h"
#include "engine/mounts/xattrs.h"
#include "kernel/directories.h"
#include "kernel/fs.h"

namespace stasis::engine::mounts {

namespace {

constexpr int deepest = 1000;  // directories within directories; each is held open
constexpr size_t chunk = 64 << 10;
constexpr uint32_t nobody = 65534;  // as the kernel shows ids that aren't mapped

struct Freer {
  void operator()(archive* a) const { archive_write_free(a); }
  void operator()(archive_entry* e) const { archive_entry_free(e); }
};

class Packer {
 public:
  Packer(int out, const userns::IdMap& ids, std::string name);
  void add_root(int root, bool with_content);
  void add_part(int part, const std::string& path);
  void finish();

 private:
  static la_ssize_t write_out(archive*, void* self, const void* bytes, size_t size);
  void check(int result, const std::string& path);
  void add(int dir, const std::string& name, const std::string& path, int depth);
  void add_directory(UniqueFd dir, const std::string& path, int depth);
  void note_socket(const struct statx& stat, const std::string& path);
  void add_sockets();
  template <typename Open>  // called where there are bytes to read
  void add_content(Open open, const std::string& path, const struct statx& stat);
  std::vector<std::pair<int64_t, int64_t>> data_ranges(int fd, int64_t size,
                                                       const std::string& path);
  void describe(const struct statx& stat, const std::string& path, const std::string& proc_path);

  int out_;
  const userns::IdMap& ids_;
  std::string name_;
  std::unique_ptr<archive, Freer> archive_{archive_write_new()};
  std::unique_ptr<archive_entry, Freer> entry_{archive_entry_new()};
  std::map<uint64_t, std::string> linked_;  // inode with several names -> its first one
  std::exception_ptr failure_;
  std::vector<char> buffer_ = std::vector<char>(chunk);
  std::set<std::string> plain_dirs_;  // that lead to parts
  int root_ = -1;                     // borrowed; none where parts are packed
  std::string sockets_;               // not written yet
  uint32_t device_major_ = 0, device_minor_ = 0;
};

Packer::Packer(int out, const userns::IdMap& ids, std::string name)
    : out_(out), ids_(ids), name_(std::move(name)) {
  auto* a = archive_.get();
  if (!a || !entry_) throw std::bad_alloc();
  check(archive_write_set_format_pax(a), "begin");
  check(archive_write_add_filter_gzip(a), "begin");
  // Attributes are stored once, as GNU tar does.
  check(archive_write_set_options(a,
                                  "pax:xattrheader=SCHILY,"
                                  "gzip:compression-level=1,gzip:!timestamp"),
        "begin");
  archive_write_set_bytes_per_block(a, chunk);
  archive_write_set_bytes_in_last_block(a, 1);
  check(archive_write_open(a, this, nullptr, write_out, nullptr), "begin");
}

la_ssize_t Packer::write_out(archive*, void* self, const void* bytes, size_t size) {
  auto* packer = static_cast<Packer*>(self);
  try {
    kernel::write_all(packer->out_, {static_cast<const char*>(bytes), size}, packer->name_);
    return static_cast<la_ssize_t>(size);
  } catch (...) {  // must not pass through the library
    packer->failure_ = std::current_exception();
    return -1;
  }
}

void Packer::check(int result, const std::string& path) {
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  // A warning says that a name is no UTF-8 and is stored as bytes.
  if (result == ARCHIVE_OK || result == ARCHIVE_WARN) return;
  const char* said = archive_error_string(archive_.get());
  throw Error("pack the content of", name_ + " (" + path + ")")
      .because(said ? said : "the archive could not be written");
}

void Packer::describe(const struct statx& stat, const std::string& path,
                      const std::string& proc_path) {
  auto* entry = archive_entry_clear(entry_.get());
  archive_entry_set_pathname(entry, path.c_str());
  archive_entry_set_mode(entry, stat.stx_mode);
  archive_entry_set_uid(entry, ids_.find_uid_inside(stat.stx_uid).value_or(nobody));
  archive_entry_set_gid(entry, ids_.find_gid_inside(stat.stx_gid).value_or(nobody));
  archive_entry_set_mtime(entry, stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec);
  archive_entry_set_rdev(entry, makedev(stat.stx_rdev_major, stat.stx_rdev_minor));
  for (const auto& [attribute, value] : read_xattrs(proc_path, ids_))
    archive_entry_xattr_add_entry(entry, attribute.c_str(), value.data(), value.size());
}

void Packer::note_socket(const struct statx& stat, const std::string& path) {
  sockets_ += fmt::format("{:o} {} {} {} {} {}", stat.stx_mode & 07777,
                          ids_.find_uid_inside(stat.stx_uid).value_or(nobody),
                          ids_.find_gid_inside(stat.stx_gid).value_or(nobody),
                          stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec, path);
  sockets_ += '\0';
  if (sockets_.size() > chunk) add_sockets();  // readers take attributes up to a size only
}

void Packer::add_sockets() {
  if (sockets_.empty()) return;
  auto* entry = archive_entry_clear(entry_.get());
  if (root_ >= 0) {
    describe(kernel::stat_fd(root_), "./", "/proc/self/fd/" + std::to_string(root_) + "/.");
  } else {
    archive_entry_set_pathname(entry, "./");
    archive_entry_set_mode(entry, S_IFDIR | 0755);
  }
  archive_entry_xattr_add_entry(entry, sockets_attribute, sockets_.data(), sockets_.size());
  check(archive_write_header(archive_.get(), entry), ".");
  sockets_.clear();
}

void Packer::finish() {
  add_sockets();
  check(archive_write_close(archive_.get()), "end");
}

void Packer::add_root(int root, bool with_content) {
  root_ = root;
  UniqueFd dir = kernel::open_at(root, ".", O_RDONLY | O_DIRECTORY | O_NOATIME);
  auto stat = kernel::stat_fd(dir.get());
  device_major_ = stat.stx_dev_major;
  device_minor_ = stat.stx_dev_minor;
  describe(stat, "./", "/proc/self/fd/" + std::to_string(dir.get()) + "/.");
  check(archive_write_header(archive_.get(), entry_.get()), ".");
  if (with_content) add_directory(std::move(dir), ".", 0);
}

void Packer::add_part(int part, const std::string& part_path) {
  const std::string path = "./" + part_path;
  for (size_t slash = 1; slash != std::string::npos; slash = path.find('/', slash + 1)) {
    std::string leading = path.substr(0, slash + 1);
    if (!plain_dirs_.insert(leading).second) continue;
    auto* entry = archive_entry_clear(entry_.get());
    archive_entry_set_pathname(entry, leading.c_str());
    archive_entry_set_mode(entry, S_IFDIR | 0755);
    check(archive_write_header(archive_.get(), entry), leading);
  }
  auto stat = kernel::stat_fd(part);
  device_major_ = stat.stx_dev_major;
  device_minor_ = stat.stx_dev_minor;
  if (S_ISSOCK(stat.stx_mode)) return note_socket(stat, path);
  std::string proc_path = "/proc/self/fd/" + std::to_string(part);
  describe(stat, path, proc_path);
  if (S_ISREG(stat.stx_mode))
    return add_content([&] { return kernel::open(proc_path, O_RDONLY | O_NOCTTY); }, path, stat);
  check(archive_write_header(archive_.get(), entry_.get()), path);
  if (S_ISDIR(stat.stx_mode))
    add_directory(kernel::open_at(part, ".", O_RDONLY | O_DIRECTORY | O_NOATIME), path, 0);
}

void Packer::add_directory(UniqueFd dir, const std::string& path, int depth) {
  if (depth > deepest)
    throw Error("pack the content of", name_ + " (" + path + ")")
        .because("directories are nested too deeply");
  for (const auto& name : kernel::entries(dir.get(), name_ + " (" + path + ")"))
    add(dir.get(), name, fmt::format("{}/{}", path, name), depth);
}

void Packer::add(int dir, const std::string& name, const std::string& path, int depth) {
  struct statx stat{};
  kernel::must(kernel::call(SYS_statx, dir, name.c_str(),
                            AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC,
                            STATX_BASIC_STATS, &stat),
               "stat", name_ + " (" + path + ")");
  if (stat.stx_dev_major != device_major_ || stat.stx_dev_minor != device_minor_)
    throw Error("pack the content of", name_ + " (" + path + ")")
        .because("another mount covers a part of it");
  if (S_ISSOCK(stat.stx_mode)) return note_socket(stat, path);
  describe(stat, path, "/proc/self/fd/" + std::to_string(dir) + "/" + name);
  auto* entry = entry_.get();
  bool is_directory = S_ISDIR(stat.stx_mode);
  if (!is_directory && stat.stx_nlink > 1) {
    auto [first, is_new] = linked_.emplace(stat.stx_ino, path);
    if (!is_new) {
      archive_entry_set_hardlink(entry, first->second.c_str());
      check(archive_write_header(archive_.get(), entry), path);
      return;
    }
  }
  constexpr int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_NOATIME;
  if (S_ISREG(stat.stx_mode))
    return add_content([&] { return kernel::open_at(dir, name, flags); }, path, stat);
  if (S_ISLNK(stat.stx_mode))
    archive_entry_set_symlink(entry, kernel::read_link_at(dir, name).c_str());
  check(archive_write_header(archive_.get(), entry), path);
  if (is_directory)
    add_directory(kernel::open_at(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NOATIME), path,
                  depth + 1);
}

std::vector<std::pair<int64_t, int64_t>> Packer::data_ranges(int fd, int64_t size,
                                                             const std::string& path) {
  std::vector<std::pair<int64_t, int64_t>> ranges;
  for (int64_t at = 0; at < size;) {
    int64_t from = kernel::call(SYS_lseek, fd, at, SEEK_DATA);
    if (from == -ENXIO) break;
    kernel::must(from, "find the data of", name_ + " (" + path + ")");
    at = kernel::must(kernel::call(SYS_lseek, fd, from, SEEK_HOLE), "find the data of",
                      name_ + " (" + path + ")");
    ranges.emplace_back(from, std::min(at, size));
  }
  return ranges;
}

template <typename Open>
void Packer::add_content(Open open, const std::string& path, const struct statx& stat) {
  auto size = static_cast<int64_t>(stat.stx_size);
  auto* entry = entry_.get();
  archive_entry_set_size(entry, size);
  UniqueFd file;
  std::vector<std::pair<int64_t, int64_t>> ranges;
  if (size > 0) {
    file = open();
    ranges.emplace_back(0, size);
    if (static_cast<int64_t>(stat.stx_blocks) * 512 < size) {
      ranges = data_ranges(file.get(), size, path);
      // An empty map would mean "no holes"; a file that is one has an empty range.
      if (ranges.empty()) ranges.emplace_back(size, size);
      for (auto [from, to] : ranges) archive_entry_sparse_add_entry(entry, from, to - from);
    }
  }
  check(archive_write_header(archive_.get(), entry), path);
  // The library wants the holes' zeros, too, and drops them.
  static constexpr char zeros[64 << 10] = {};
  auto put = [&](const char* bytes, size_t count) {
    if (archive_write_data(archive_.get(), bytes, count) != static_cast<la_ssize_t>(count))
      check(ARCHIVE_FATAL, path);
  };
  int64_t at = 0;
  auto skip_to = [&](int64_t offset) {
    for (; at < offset; at += std::min<int64_t>(offset - at, sizeof zeros))
      put(zeros, static_cast<size_t>(std::min<int64_t>(offset - at, sizeof zeros)));
  };
  for (auto [from, to] : ranges) {
    skip_to(from);
    while (at < to) {
      size_t wanted = static_cast<size_t>(std::min<int64_t>(to - at, chunk));
      long n = kernel::must(kernel::call(SYS_pread64, file.get(), buffer_.data(), wanted, at),
                            "read", name_ + " (" + path + ")");
      if (n == 0) throw Error("read", name_ + " (" + path + ")").because("it got shorter");
      put(buffer_.data(), static_cast<size_t>(n));
      at += n;
    }
  }
  skip_to(size);
}

}  // namespace

std::string archive_of(uint32_t device) {
  return "tmpfs-dev-" + std::to_string(device) + ".tar.gz";
}

void prepare_packing() {
  std::unique_ptr<archive, Freer> nowhere(archive_write_new());
  std::unique_ptr<archive_entry, Freer> entry(archive_entry_new());
  if (!nowhere || !entry) throw std::bad_alloc();
  auto forget = [](archive*, void*, const void*, size_t size) {
    return static_cast<la_ssize_t>(size);
  };
  archive_write_set_format_pax(nowhere.get());
  archive_write_add_filter_gzip(nowhere.get());
  archive_write_open(nowhere.get(), nullptr, nullptr, forget, nullptr);
  archive_entry_set_pathname(entry.get(), "./");
  archive_entry_set_mode(entry.get(), S_IFDIR | 0755);
  archive_write_header(nowhere.get(), entry.get());
}

void pack(int root, int out, const userns::IdMap& ids, const std::string& name) {
  Packer packer(out, ids, name);
  packer.add_root(root, true);
  packer.finish();
}

void pack_empty(int root, int out, const userns::IdMap& ids, const std::string& name) {
  Packer packer(out, ids, name);
  packer.add_root(root, false);
  packer.finish();
}

void pack_parts(const std::map<std::string, UniqueFd>& parts, int out, const userns::IdMap& ids,
                const std::string& name) {
  Packer packer(out, ids, name);
  for (const auto& [path, part] : parts) packer.add_part(part.get(), path);
  packer.finish();
}

}  // namespace stasis::engine::mounts
