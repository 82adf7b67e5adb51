#include <sys/syscall.h>

#include <filesystem>
#include <string_view>
#include <system_error>
#include <vector>

#include "base/text.h"
#include "engine/mounts/archive.h"
#include "engine/mounts/archive_reader.h"
#include "engine/mounts/xattrs.h"
#include "kernel/directories.h"
#include "kernel/fs.h"

namespace stasis::engine::mounts {

namespace {

// An archive is believed no more than any other image: it can create files only
// beneath the root, through directories and no links, and only so many.
// How much they hold is limited by the file system they go to.
constexpr uint64_t most_entries = 4 << 20;
constexpr size_t longest_path = 4095;
constexpr uint64_t beneath =
    RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;

// What an image's layer takes away from those below it.
constexpr std::string_view whiteout = ".wh.", whiteout_of_unions = ".wh..wh.",
                           opaque = ".wh..wh..opq";

void remove_tree(int parent, const std::string& name, const std::string& shown) {
  long removed = kernel::call(SYS_unlinkat, parent, name.c_str(), 0);
  if (removed == -ENOENT) return;
  if (removed != -EISDIR) {
    kernel::must(removed, "remove", shown);
    return;
  }
  // It follows no link beneath what it is given.
  std::error_code failed;
  std::filesystem::remove_all("/proc/self/fd/" + std::to_string(parent) + "/" + name, failed);
  kernel::must(-failed.value(), "remove", shown);
}

struct Attributes {
  mode_t mode;
  uid_t uid;
  gid_t gid;
  timespec times[2];
  Xattrs xattrs;
};

enum class Onto { empty, files };

class Unpacker {
 public:
  Unpacker(int in, int root, Onto onto, std::string name)
      : root_(root),
        onto_(onto),
        name_(std::move(name)),
        archive_(in, "unpack the content of", name_, {archive_read_support_filter_gzip}) {}
  void run();

 private:
  void count();
  std::string clean(const char* raw);
  int parent_of(const std::string& path, std::string& name);
  // It may have been removed. Its descriptor is still in use.
  void forget_parent() { parent_path_ = "/"; }
  UniqueFd open_directory(const std::string& path);
  void make_way(archive_entry* entry, int parent, const std::string& name);
  void take_away(int parent, const std::string& name);
  void add(archive_entry* entry);
  void add_link(const std::string& target, int parent, const std::string& name);
  void add_directory(int parent, const std::string& name, const std::string& path);
  void add_file(archive_entry* entry, int parent, const std::string& name, const std::string& path);
  void add_sockets(archive_entry* root);
  void add_socket(std::string_view record);
  Attributes attributes(archive_entry* entry) const;
  void apply(const Attributes& to_set, int parent, const std::string& name);

  int root_;
  Onto onto_;
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
    parent_ = open_directory(parent);
    parent_path_ = std::move(parent);
  }
  return parent_.get();
}

// A layer may leave out a directory that it changed nothing of.
UniqueFd Unpacker::open_directory(const std::string& path) {
  for (size_t end = 0; onto_ == Onto::files && end != std::string::npos;) {
    end = path.find('/', end + 1);
    std::string part = path.substr(0, end), name;
    long there = kernel::try_open_in(root_, part, O_PATH | O_DIRECTORY, beneath);
    UniqueFd found(static_cast<int>(there));
    if (there != -ENOENT) continue;
    int parent = parent_of(part, name);
    kernel::must(kernel::call(SYS_mkdirat, parent, name.c_str(), 0755), "create the directory",
                 name_ + " (" + part + ")");
  }
  return kernel::open_in(root_, path, O_PATH | O_DIRECTORY, beneath);
}

// A directory stays where one comes again.
void Unpacker::make_way(archive_entry* entry, int parent, const std::string& name) {
  if (archive_entry_filetype(entry) == AE_IFDIR && !archive_entry_hardlink(entry)) {
    struct stat now{};
    long result = kernel::call(SYS_newfstatat, parent, name.c_str(), &now, AT_SYMLINK_NOFOLLOW);
    if (result == 0 && S_ISDIR(now.st_mode)) return;
  }
  remove_tree(parent, name, name_ + " (" + archive_.path() + ")");
  forget_parent();
}

void Unpacker::take_away(int parent, const std::string& name) {
  std::string shown = name_ + " (" + archive_.path() + ")";
  if (name == opaque) {
    UniqueFd directory = kernel::open_in(parent, ".", O_RDONLY | O_DIRECTORY, beneath);
    for (const std::string& entry : kernel::entries(directory.get(), shown))
      remove_tree(directory.get(), entry, shown);
  }
  if (name.starts_with(whiteout_of_unions)) return;  // their own notes
  std::string gone = name.substr(whiteout.size());
  if (gone.empty() || gone == "." || gone == "..") archive_.fail("it takes away nothing by name");
  remove_tree(parent, gone, shown);
  forget_parent();
}

Attributes Unpacker::attributes(archive_entry* entry) const {
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
    if (is_kept_xattr(name) &&
        (onto_ == Onto::empty || !std::string_view(name).starts_with("trusted.")))
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
  if (made == -EEXIST && onto_ == Onto::files) return;
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
  if (onto_ == Onto::files) {
    if (name.starts_with(whiteout)) return take_away(parent, name);
    make_way(entry, parent, name);
  }
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

void unpack(int in, int root, const std::string& name) {
  Unpacker(in, root, Onto::empty, name).run();
}

void unpack_over(int in, int root, const std::string& name) {
  Unpacker(in, root, Onto::files, name).run();
}

void remove_beneath(int root, const std::string& path, const std::string& name) {
  size_t slash = path.rfind('/');
  std::string last = path.substr(slash + 1);  // of npos, all of it
  std::string shown = name + " (" + path + ")";
  if (last.empty() || last == "." || last == "..")
    throw Error("remove", shown).because("it names no file");
  std::string directory = slash == std::string::npos ? "." : path.substr(0, slash);
  long parent = kernel::try_open_in(root, directory, O_PATH | O_DIRECTORY, beneath);
  if (parent == -ENOENT || parent == -ENOTDIR) return;
  UniqueFd fd(static_cast<int>(kernel::must(parent, "remove", shown)));
  remove_tree(fd.get(), last, shown);
}

}  // namespace stasis::engine::mounts
