#include <sys/syscall.h>

#include <string_view>
#include <vector>

#include "base/text.h"
#include "engine/mounts/archive.h"
#include "engine/mounts/archive_reader.h"
#include "engine/mounts/xattrs.h"
#include "kernel/fs.h"

namespace stasis::engine::mounts {

namespace {

// An archive is believed no more than any other image: it can create files only
// beneath the root, through directories of its own making, and only so many.
// How much they hold is limited by the file system they go to.
constexpr uint64_t most_entries = 4 << 20;
constexpr size_t longest_path = 4095;
constexpr uint64_t beneath =
    RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;

struct Attributes {
  mode_t mode;
  uid_t uid;
  gid_t gid;
  timespec times[2];
  Xattrs xattrs;
};

class Unpacker {
 public:
  Unpacker(int in, int root, std::string name)
      : root_(root),
        name_(std::move(name)),
        archive_(in, "unpack the content of", name_, {archive_read_support_filter_gzip}) {}
  void run();

 private:
  void count();
  std::string clean(const char* raw);
  int parent_of(const std::string& path, std::string& name);
  void add(archive_entry* entry);
  void add_link(const std::string& target, int parent, const std::string& name);
  void add_directory(int parent, const std::string& name, const std::string& path);
  void add_file(archive_entry* entry, int parent, const std::string& name, const std::string& path);
  void add_sockets(archive_entry* root);
  void add_socket(std::string_view record);
  static Attributes attributes(archive_entry* entry);
  void apply(const Attributes& to_set, int parent, const std::string& name);

  int root_;
  std::string name_;
  ArchiveReader archive_;
  uint64_t count_ = 0;
  std::string parent_path_;  // of the directory last used
  UniqueFd parent_;
  std::vector<std::pair<std::string, Attributes>> directories_;
};

// "a/b" of "./a/b/", "" of the root.
std::string Unpacker::clean(const char* raw) {
  if (!raw || raw[0] == '/') archive_.fail(raw ? raw : "", "a name is not relative");
  std::string path;
  for (auto part : text::split(raw, '/')) {
    if (part.empty() || part == ".") continue;
    if (part == "..") archive_.fail(raw, "a name leads out of the tree");
    if (!path.empty()) path += '/';
    path += part;
  }
  if (path.size() > longest_path) archive_.fail(raw, "a name is too long");
  return path;
}

int Unpacker::parent_of(const std::string& path, std::string& name) {
  size_t slash = path.rfind('/');
  name = slash == std::string::npos ? path : path.substr(slash + 1);
  if (slash == std::string::npos) return root_;
  std::string parent = path.substr(0, slash);
  if (!parent_.valid() || parent != parent_path_) {
    parent_ = kernel::open_in(root_, parent, O_PATH | O_DIRECTORY, beneath);
    parent_path_ = std::move(parent);
  }
  return parent_.get();
}

Attributes Unpacker::attributes(archive_entry* entry) {
  Attributes result{};
  result.mode = archive_entry_mode(entry) & 07777;
  result.uid = static_cast<uid_t>(archive_entry_uid(entry));
  result.gid = static_cast<gid_t>(archive_entry_gid(entry));
  result.times[0].tv_nsec = UTIME_OMIT;
  result.times[1] = {archive_entry_mtime(entry), archive_entry_mtime_nsec(entry)};
  const char* name = nullptr;
  const void* value = nullptr;
  size_t size = 0;
  archive_entry_xattr_reset(entry);
  while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK)
    if (is_kept_xattr(name))
      result.xattrs.emplace_back(name, std::string(static_cast<const char*>(value), size));
  return result;
}

// To an object that we have just made. A change of owner takes set-id bits and
// capabilities away, so it comes first.
void Unpacker::apply(const Attributes& to_set, int parent, const std::string& name) {
  const char* path = name.c_str();
  int flags = AT_SYMLINK_NOFOLLOW | (name.empty() ? AT_EMPTY_PATH : 0);
  std::string proc_path =
      "/proc/self/fd/" + std::to_string(parent) + "/" + (name.empty() ? "." : name);
  kernel::must(kernel::call(SYS_fchownat, parent, path, to_set.uid, to_set.gid, flags),
               "set the owner of", name_ + " (" + name + ")");
  struct stat now{};
  kernel::must(kernel::call(SYS_newfstatat, parent, path, &now, flags), "stat", name);
  if (!S_ISLNK(now.st_mode))
    kernel::must(name.empty() ? kernel::call(SYS_fchmod, parent, to_set.mode)
                              : kernel::call(SYS_fchmodat, parent, path, to_set.mode),
                 "set the mode of", name_ + " (" + name + ")");
  write_xattrs(proc_path, to_set.xattrs);
  kernel::must(kernel::call(SYS_utimensat, parent, name.empty() ? nullptr : path, to_set.times,
                            name.empty() ? 0 : AT_SYMLINK_NOFOLLOW),
               "set the times of", name_ + " (" + name + ")");
}

void Unpacker::add_link(const std::string& target, int parent, const std::string& name) {
  size_t slash = target.rfind('/');
  UniqueFd dir;
  if (slash != std::string::npos)
    dir = kernel::open_in(root_, target.substr(0, slash), O_PATH | O_DIRECTORY, beneath);
  std::string last = slash == std::string::npos ? target : target.substr(slash + 1);
  kernel::must(kernel::call(SYS_linkat, dir.valid() ? dir.get() : root_, last.c_str(), parent,
                            name.c_str(), 0),
               "link", name_ + " (" + target + ")");
}

void Unpacker::add_directory(int parent, const std::string& name, const std::string& path) {
  long made = kernel::call(SYS_mkdirat, parent, name.c_str(), 0700);
  if (made == -EEXIST) archive_.fail(path, "a name occurs twice");
  kernel::must(made, "create the directory", name_ + " (" + path + ")");
}

void Unpacker::add_file(archive_entry* entry, int parent, const std::string& name,
                        const std::string& path) {
  constexpr int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;
  UniqueFd file = kernel::open_in(parent, name, flags, beneath, 0600);
  int64_t size = archive_entry_size(entry);
  if (size < 0) archive_.fail(path, "a size is negative");
  archive_.copy_content(file.get(), name_ + " (" + path + ")");
}

void Unpacker::add_sockets(archive_entry* root) {
  const char* name = nullptr;
  const void* value = nullptr;
  size_t size = 0;
  archive_entry_xattr_reset(root);
  while (archive_entry_xattr_next(root, &name, &value, &size) == ARCHIVE_OK) {
    if (name != std::string_view(sockets_attribute)) continue;
    std::string_view records(static_cast<const char*>(value), size);
    while (!records.empty()) add_socket(text::next(records, '\0'));
  }
}

void Unpacker::add_socket(std::string_view record) {
  count();
  auto mode = text::to_int<mode_t>(text::next(record, ' '), 8);
  auto uid = text::to_int<uid_t>(text::next(record, ' '));
  auto gid = text::to_int<gid_t>(text::next(record, ' '));
  auto seconds = text::to_int<time_t>(text::next(record, ' '));
  auto nanoseconds = text::to_int<long>(text::next(record, ' '));
  std::string path = clean(std::string(record).c_str());
  if (!mode || *mode > 07777 || !uid || !gid || !seconds || !nanoseconds || path.empty())
    archive_.fail(path, "a socket isn't described as it should be");
  std::string name;
  int parent = parent_of(path, name);
  kernel::must(kernel::call(SYS_mknodat, parent, name.c_str(), S_IFSOCK | 0600, 0),
               "create the socket", name_ + " (" + path + ")");
  apply({*mode, *uid, *gid, {{0, UTIME_OMIT}, {*seconds, *nanoseconds}}, {}}, parent, name);
}

void Unpacker::add(archive_entry* entry) {
  std::string path = clean(archive_entry_pathname(entry));
  if (path.empty()) {
    add_sockets(entry);
    directories_.emplace_back(path, attributes(entry));
    return;
  }
  std::string name;
  int parent = parent_of(path, name);
  if (const char* target = archive_entry_hardlink(entry))
    return add_link(clean(target), parent, name);
  mode_t type = archive_entry_filetype(entry);
  switch (type) {
    case AE_IFDIR:
      add_directory(parent, name, path);
      directories_.emplace_back(path, attributes(entry));
      return;
    case AE_IFREG:
      add_file(entry, parent, name, path);
      break;
    case AE_IFLNK: {
      const char* target = archive_entry_symlink(entry);
      if (!target || !*target) archive_.fail(path, "a symbolic link leads nowhere");
      kernel::must(kernel::call(SYS_symlinkat, target, parent, name.c_str()),
                   "create the symbolic link", name_ + " (" + path + ")");
      break;
    }
    case AE_IFCHR:
    case AE_IFBLK:
    case AE_IFIFO:
      kernel::must(kernel::call(SYS_mknodat, parent, name.c_str(), type | 0600,
                                type == AE_IFIFO ? 0 : archive_entry_rdev(entry)),
                   "create the device or pipe", name_ + " (" + path + ")");
      break;
    default:
      archive_.fail(path, "it is of a kind that cannot be in an archive");
  }
  apply(attributes(entry), parent, name);
}

void Unpacker::count() {
  if (count_++ == most_entries) archive_.fail("", "it has too many entries");
}

void Unpacker::run() {
  while (archive_entry* entry = archive_.next()) {
    count();
    add(entry);
  }
  // Their times and modes would not survive what is created in them.
  for (auto it = directories_.rbegin(); it != directories_.rend(); ++it) {
    const auto& [path, to_set] = *it;
    UniqueFd dir =
        kernel::open_in(root_, path.empty() ? "." : path, O_RDONLY | O_DIRECTORY, beneath);
    apply(to_set, dir.get(), "");
  }
}

}  // namespace

void unpack(int in, int root, const std::string& name) { Unpacker(in, root, name).run(); }

}  // namespace stasis::engine::mounts
