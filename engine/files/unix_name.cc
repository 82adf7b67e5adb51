#include "engine/files/unix_name.h"

#include <fmt/core.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <optional>

#include "base/scope_exit.h"
#include "engine/files/dumper.h"
#include "engine/files/restorer.h"
#include "engine/mounts/spaces.h"
#include "kernel/fs.h"
#include "kernel/mount_api.h"

namespace stasis::engine::files {

namespace {

constexpr unsigned long siocunixfile = 0x89e0;  // SIOCUNIXFILE, which libc's headers lack
constexpr std::string_view deleted = " (deleted)";

struct Address {
  sockaddr_un text{};
  socklen_t size = 0;

  explicit Address(std::string_view name) {
    text.sun_family = AF_UNIX;
    if (name.size() > sizeof text.sun_path)
      throw Error("use the socket name", shown_name(name)).because("it is too long");
    name.copy(text.sun_path, name.size());
    size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
  }
};

// What a relative name is relative to, so that it leads to `path` again.
std::string directory_of(std::string_view name, std::string_view path) {
  while (name.starts_with("./")) name.remove_prefix(2);
  if (path.size() > name.size() && path.ends_with(name) &&
      path[path.size() - name.size() - 1] == '/') {
    path.remove_suffix(name.size() + 1);
    return path.empty() ? "/" : std::string(path);
  }
  return {};
}

bool leads_to(const std::string& name, const struct statx& file, int root) {
  long fd = kernel::try_open_in(root, name.substr(1), O_PATH | O_NOFOLLOW,
                                RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
  if (fd < 0) return false;
  UniqueFd found(static_cast<int>(fd));
  struct statx stat = kernel::stat_fd(found.get());
  return stat.stx_ino == file.stx_ino && stat.stx_dev_major == file.stx_dev_major &&
         stat.stx_dev_minor == file.stx_dev_minor;
}

std::string as_text(std::string_view name) { return std::string(name.substr(0, name.find('\0'))); }

// Root and working directory of this thread for one call that takes a path as
// text only. Nothing else happens meanwhile.
class Standpoint {
 public:
  explicit Standpoint(int root)
      : root_(kernel::open("/", O_PATH | O_DIRECTORY)),
        directory_(kernel::open(".", O_PATH | O_DIRECTORY)) {
    go(root);
  }
  ~Standpoint() {
    kernel::call(SYS_fchdir, root_.get());
    kernel::call(SYS_chroot, ".");
    kernel::call(SYS_fchdir, directory_.get());
  }
  Standpoint(const Standpoint&) = delete;
  Standpoint& operator=(const Standpoint&) = delete;

 private:
  static void go(int root) {
    kernel::must(kernel::call(SYS_fchdir, root), "enter", "the container's root directory");
    kernel::must(kernel::call(SYS_chroot, "."), "enter", "the container's root directory");
  }
  UniqueFd root_, directory_;
};

void bind_from(int root, int socket, const image::UnixSkEntry& entry) {
  std::string name = as_text(entry.name());
  Address address(entry.name());
  auto failed = [&](long result, const char* what) {
    kernel::must(result, what, entry.name_dir().empty() ? name : entry.name_dir() + "/" + name);
  };
  Standpoint standpoint(root);
  if (entry.has_name_dir())
    failed(kernel::call(SYS_chdir, entry.name_dir().c_str()), "enter the directory of the socket");
  struct stat old{};
  if (kernel::call(SYS_newfstatat, AT_FDCWD, name.c_str(), &old, AT_SYMLINK_NOFOLLOW) == 0 &&
      S_ISSOCK(old.st_mode))
    failed(kernel::call(SYS_unlinkat, AT_FDCWD, name.c_str(), 0), "replace the socket");
  failed(kernel::call(SYS_bind, socket, &address.text, address.size), "bind the socket");
}

// By its name from where that leads to `path`, or else by a new name that is changed.
void bind_elsewhere(int root, int socket, const image::UnixSkEntry& entry,
                    const std::string& path) {
  constexpr uint64_t inside = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  std::string name = as_text(entry.name());
  if (path.size() > name.size() && path.ends_with(name)) {
    std::string base = path.substr(0, path.size() - name.size());
    UniqueFd own = kernel::open_in(root, base.substr(1), O_PATH | O_DIRECTORY, inside);
    return bind_from(own.get(), socket, entry);
  }
  long there = kernel::try_open_in(root, name.substr(1), O_PATH | O_NOFOLLOW, inside);
  if (there >= 0) {
    UniqueFd taken(static_cast<int>(there));
    throw Error("bind the socket", name).because("another file has this name by now");
  }
  bind_from(root, socket, entry);
  auto directory = [&](const std::string& of) {
    std::string below = of.substr(0, of.rfind('/'));
    return kernel::open_in(root, below.empty() ? "." : below.substr(1), O_PATH | O_DIRECTORY,
                           inside);
  };
  UniqueFd from = directory(name), to = directory(path);
  auto last = [](const std::string& of) { return of.substr(of.rfind('/') + 1); };
  struct stat old{};
  if (kernel::call(SYS_newfstatat, to.get(), last(path).c_str(), &old, AT_SYMLINK_NOFOLLOW) == 0 &&
      !S_ISSOCK(old.st_mode))
    throw Error("rename the socket to", path).because("another file is there by now");
  kernel::must(
      kernel::call(SYS_renameat, from.get(), last(name).c_str(), to.get(), last(path).c_str()),
      "rename the socket to", path);
}

// The directories that lead to `path`, which may be there.
void make_way(int root, const std::string& path) {
  for (size_t slash = path.find('/', 1); slash != path.npos; slash = path.find('/', slash + 1)) {
    long made = kernel::call(SYS_mkdirat, root, ("." + path.substr(0, slash)).c_str(), 0755);
    if (made != -EEXIST) kernel::must(made, "make the directory of the socket", path);
  }
}

void set_permissions(int file, const image::FilePermsEntry& perms, const userns::IdMap& ids) {
  std::string who = "a socket's file";
  kernel::must(kernel::call(SYS_fchownat, file, "", ids.uid_outside(perms.uid(), who),
                            ids.gid_outside(perms.gid(), who), AT_EMPTY_PATH),
               "set the owner of", who);
  std::string path = fmt::format("/proc/self/fd/{}", file);
  kernel::must(kernel::call(SYS_fchmodat, AT_FDCWD, path.c_str(), perms.mode() & 07777),
               "set the mode of", who);
}

}  // namespace

bool is_abstract(std::string_view name) { return !name.empty() && name.front() == '\0'; }

std::string shown_name(std::string_view name) {
  if (!is_abstract(name)) return as_text(name);
  std::string shown(name);
  for (char& c : shown)
    if (c == '\0') c = '@';
  return shown;
}

UniqueFd socket_file(int socket) {
  long fd = kernel::call(SYS_ioctl, socket, siocunixfile, 0);
  if (fd == -ENOENT) return {};
  return UniqueFd(static_cast<int>(kernel::must(fd, "open the file of", "a unix socket")));
}

void describe_name(Dumper& dumper, const OpenFile& file, const std::string& name,
                   image::UnixSkEntry& entry) {
  entry.set_name(name);
  if (name.empty() || is_abstract(name)) return;
  UniqueFd node = socket_file(file.fd.get());
  if (!node) throw Error("dump", file.probe.described()).because("its file can't be found");
  struct statx stat = kernel::stat_fd(node.get());
  std::string link = fmt::format("/proc/self/fd/{}", node.get());
  std::string path = kernel::read_link(link);
  if (path.ends_with(deleted)) {
    path.resize(path.size() - deleted.size());
    entry.set_deleted(true);
  }
  auto info =
      kernel::parse_fdinfo(kernel::read_file(fmt::format("/proc/self/fdinfo/{}", node.get())));
  const mounts::Place place = mounts::find_mount(dumper.plan(), info.mnt_id);
  int root = place.mount ? dumper.around().root(place.space) : -1;
  if (place.mount) entry.set_mnt_id(info.mnt_id);
  image::FilePermsEntry& perms = *entry.mutable_file_perms();
  perms.set_mode(stat.stx_mode);
  perms.set_uid(dumper.ids().uid_inside(stat.stx_uid, path));
  perms.set_gid(dumper.ids().gid_inside(stat.stx_gid, path));
  if (name.front() == '/') {
    // It was bound under another root directory, or the file has been renamed.
    if (place.mount && !entry.deleted() && !leads_to(as_text(name), stat, root))
      dumper.unix_more(entry.ino()).set_path(path);
    return;
  }
  std::string directory = directory_of(as_text(name), path);
  if (directory.empty())
    throw Error("dump", process_name(file.probe.pid))
        .because(fmt::format("it holds a unix socket open as descriptor {}, bound to the relative "
                             "name {}, which has become {}",
                             file.probe.number, shown_name(name), path))
        .hint("let the program bind it by an absolute path");
  entry.set_name_dir(directory);
}

void UnixNames::bind(int socket, const image::UnixSkEntry& entry, const std::string& path) {
  if (entry.name().empty()) return;
  if (is_abstract(entry.name())) {
    Address address(entry.name());
    kernel::must(kernel::call(SYS_bind, socket, &address.text, address.size), "bind the socket",
                 shown_name(entry.name()));
    return;
  }
  if (entry.deleted()) return bind_aside(socket, entry);
  int root = restorer_.root_of(entry.mnt_id());
  if (path.empty())
    bind_from(root, socket, entry);
  else
    bind_elsewhere(root, socket, entry, path);
  if (entry.has_file_perms())
    set_permissions(socket_file(socket).get(), entry.file_perms(), restorer_.ids());
}

int UnixNames::aside() {
  if (!aside_) {
    kernel::FsContext context("tmpfs");
    context.create();
    aside_ = context.mount(0);
  }
  return aside_.get();
}

void UnixNames::bind_aside(int socket, const image::UnixSkEntry& entry) {
  std::string name = as_text(entry.name());
  std::string path = name.starts_with('/') ? name : entry.name_dir() + "/" + name;
  if (!path.starts_with('/')) path = "/" + path;
  make_way(aside(), path);
  bind_from(aside(), socket, entry);
  if (entry.has_file_perms())
    set_permissions(socket_file(socket).get(), entry.file_perms(), restorer_.ids());
  kernel::must(kernel::call(SYS_unlinkat, aside(), ("." + path).c_str(), 0), "remove the socket",
               path);
}

void UnixNames::bind_like(int socket, const std::string& name) {
  image::UnixSkEntry entry;
  entry.set_name(name);
  if (!is_abstract(name)) return bind_aside(socket, entry);
  bind(socket, entry);
}

long connect_to(int socket, int target, std::string_view abstract_name) {
  UniqueFd file;
  std::string name(abstract_name);
  if (!is_abstract(name)) {
    file = socket_file(target);
    if (!file) return -ECONNREFUSED;
    name = fmt::format("/proc/self/fd/{}", file.get());
  }
  Address address(name);
  return kernel::call(SYS_connect, socket, &address.text, address.size);
}

long connect_from_root(int socket, int root, const std::string& name) {
  Address address(name);
  std::optional<Standpoint> standpoint;
  if (!is_abstract(name)) standpoint.emplace(root);
  return kernel::call(SYS_connect, socket, &address.text, address.size);
}

}  // namespace stasis::engine::files
