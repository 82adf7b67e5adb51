#include "hook/checkpoints.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>

#include "base/text.h"
#include "kernel/fs.h"
#include "mountmap/paths.h"
#include "oci/config.h"

namespace stasis::hook {

namespace {

constexpr uint64_t no_links = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;

Error refuse(const std::string& name, const std::string& cause) {
  return Error("use the checkpoint", name).because(cause);
}

// Nobody but root could have put it there, or could put something else there.
void check_owner(const std::string& name, const std::string& what, const struct statx& stat) {
  constexpr mode_t writable_by_others = 022;
  bool sticky = S_ISDIR(stat.stx_mode) && (stat.stx_mode & S_ISVTX);
  if (stat.stx_uid != 0)
    throw refuse(name, what + " doesn't belong to root").hint("chown -R root:root it");
  if ((stat.stx_mode & writable_by_others) && !sticky)
    throw refuse(name, "others than root may write to " + what).hint("chmod -R go-w it");
}

void check_way(const std::string& name, const std::string& path) {
  std::string part = "/";
  for (auto word : text::split(path, '/')) {
    if (word.empty()) continue;
    if (part.size() > 1) part += '/';
    part += word;
    UniqueFd fd = kernel::open_in(AT_FDCWD, part, O_PATH, no_links);
    check_owner(name, part, kernel::stat_fd(fd.get()));
  }
}

void check_files(const std::string& name, int directory) {
  char buffer[8192];
  for (;;) {
    long size =
        kernel::must(kernel::call(SYS_getdents64, directory, buffer, sizeof buffer), "list", name);
    if (size == 0) break;
    for (long at = 0; at < size;) {
      auto entry = reinterpret_cast<const dirent64*>(buffer + at);
      at += entry->d_reclen;
      std::string_view file = entry->d_name;
      if (file == "." || file == ".." || !file.ends_with(".img")) continue;
      UniqueFd fd = kernel::open_in(directory, entry->d_name, O_PATH | O_NOFOLLOW, no_links);
      auto stat = kernel::stat_fd(fd.get());
      if (!S_ISREG(stat.stx_mode)) throw refuse(name, std::string(file) + " is no file");
      check_owner(name, std::string(file), stat);
    }
  }
  kernel::must(kernel::call(SYS_lseek, directory, 0, SEEK_SET), "list", name);
}

bool exists(const std::string& path) {
  return kernel::call(SYS_faccessat, AT_FDCWD, path.c_str(), F_OK) == 0;
}

UniqueFd open_below(const std::string& root, const std::string& name) {
  check_way(name, root);
  UniqueFd top = kernel::open_in(AT_FDCWD, root, O_RDONLY | O_DIRECTORY, no_links);
  // Every directory on the way to it has to be root's, too.
  for (size_t slash = name.find('/'); slash != name.npos; slash = name.find('/', slash + 1)) {
    UniqueFd on_the_way = kernel::open_in(top.get(), name.substr(0, slash), O_PATH | O_DIRECTORY,
                                          RESOLVE_BENEATH | no_links);
    check_owner(name, name.substr(0, slash), kernel::stat_fd(on_the_way.get()));
  }
  return kernel::open_in(top.get(), name, O_RDONLY | O_DIRECTORY, RESOLVE_BENEATH | no_links);
}

UniqueFd find(const std::string& name, const mountmap::Policy& policy) {
  if (name.starts_with('/')) {
    if (oci::clean_path(name) != name) throw refuse(name, "its path isn't plain");
    for (const std::string& root : policy.checkpoints)
      if (mountmap::inside(name, root) && name != root)
        return open_below(root, name.substr(root.size() + 1));
    if (!policy.any_checkpoint)
      throw refuse(name, "it lies below none of the directories that the policy names")
          .hint("name its directory under checkpoints: in " +
                std::string(mountmap::default_policy_path));
    check_way(name, name);
    return kernel::open_in(AT_FDCWD, name, O_RDONLY | O_DIRECTORY, no_links);
  }
  if (name.empty()) throw refuse(name, "the annotation is empty");
  for (const std::string& root : policy.checkpoints) {
    try {
      return open_below(root, name);
    } catch (const Error& error) {
      if (error.code() != ENOENT) throw;
    }
  }
  throw refuse(name, "there is none of that name below the directories that the policy names");
}

}  // namespace

std::string checkpoint_place(const std::string& name, const mountmap::Policy& policy) {
  std::string relative = name.starts_with('/') ? name.substr(1) : name;
  // Hidden names are those of checkpoints that are being made.
  for (auto part : text::split(relative, '/'))
    if (part.empty() || part.starts_with('.'))
      throw refuse(name, name.empty() ? "the annotation is empty" : "its path isn't plain");
  std::string place = name;
  if (!name.starts_with('/')) {
    if (policy.checkpoints.empty()) throw refuse(name, "the policy names no directory for it");
    place = policy.checkpoints.front() + "/" + name;
    for (const std::string& root : policy.checkpoints)
      if (exists(root + "/" + name)) {
        place = root + "/" + name;
        break;
      }
  } else if (!policy.any_checkpoint) {
    bool below = false;
    for (const std::string& root : policy.checkpoints)
      below |= mountmap::inside(name, root) && name != root;
    if (!below) throw refuse(name, "it lies below none of the directories that the policy names");
  }
  std::string way = place;
  do way.resize(std::max<size_t>(way.rfind('/'), 1));
  while (way.size() > 1 && !exists(way));
  try {
    check_way(name, way);
  } catch (const Error& error) {
    if (error.operation() == "use the checkpoint") throw;
    throw refuse(name, error.what());
  }
  return place;
}

UniqueFd open_checkpoint(const std::string& name, const mountmap::Policy& policy) {
  UniqueFd directory;
  try {
    directory = find(name, policy);
  } catch (const Error& error) {
    if (error.operation() == "use the checkpoint") throw;
    throw refuse(name, error.what());
  }
  check_owner(name, "its directory", kernel::stat_fd(directory.get()));
  check_files(name, directory.get());
  return directory;
}

}  // namespace stasis::hook
