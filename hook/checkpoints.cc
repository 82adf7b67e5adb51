#include "hook/checkpoints.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <optional>

#include "base/text.h"
#include "kernel/directories.h"
#include "kernel/fs.h"
#include "mountmap/paths.h"
#include "oci/config.h"

namespace stasis::hook {

namespace {

constexpr uint64_t no_links = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;

Error refuse(const std::string& name, const std::string& cause) {
  return Error("use the checkpoint", name).because(cause);
}

void check_owner(const std::string& name, const std::string& what, const struct statx& stat) {
  kernel::check_roots_own(Error("use the checkpoint", name), what, stat, true);
}

// The one of the policy's directories that it lies below; none only where it may
// lie anywhere.
std::optional<std::string> root_above(const std::string& path, const mountmap::Policy& policy) {
  for (const std::string& root : policy.checkpoints)
    if (mountmap::inside(path, root) && path != root) return root;
  if (!policy.any_checkpoint)
    throw refuse(path, "it lies below none of the directories that the policy names")
        .hint("name its directory under checkpoints: in " +
              std::string(mountmap::default_policy_path));
  return std::nullopt;
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
  for (const std::string& file : kernel::entries(directory, name)) {
    if (!file.ends_with(".img")) continue;
    UniqueFd fd = kernel::open_in(directory, file, O_PATH | O_NOFOLLOW, no_links);
    auto stat = kernel::stat_fd(fd.get());
    if (!S_ISREG(stat.stx_mode)) throw refuse(name, file + " is no file");
    check_owner(name, file, stat);
  }
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
  return kernel::open_in(top.get(), name, O_PATH, RESOLVE_BENEATH | no_links);
}

// A directory, or an archive.
UniqueFd find(const std::string& name, const mountmap::Policy& policy) {
  if (name.starts_with('/')) {
    if (oci::clean_path(name) != name) throw refuse(name, "its path isn't plain");
    if (auto root = root_above(name, policy))
      return open_below(*root, name.substr(root->size() + 1));
    check_way(name, name);
    return kernel::open_in(AT_FDCWD, name, O_PATH, no_links);
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
      if (kernel::exists(root + "/" + name)) {
        place = root + "/" + name;
        break;
      }
  } else {
    root_above(name, policy);
  }
  std::string way = place;
  do way.resize(std::max<size_t>(way.rfind('/'), 1));
  while (way.size() > 1 && !kernel::exists(way));
  try {
    check_way(name, way);
  } catch (const Error& error) {
    if (error.operation() == "use the checkpoint") throw;
    throw refuse(name, error.what());
  }
  return place;
}

UniqueFd open_checkpoint(const std::string& name, const mountmap::Policy& policy) {
  UniqueFd found;
  try {
    found = find(name, policy);
  } catch (const Error& error) {
    if (error.operation() == "use the checkpoint") throw;
    throw refuse(name, error.what());
  }
  struct statx stat = kernel::stat_fd(found.get());
  if (!S_ISDIR(stat.stx_mode) && !S_ISREG(stat.stx_mode))
    throw refuse(name, "it is neither a directory nor an archive");
  check_owner(name, is_archive(found.get()) ? "it" : "its directory", stat);
  UniqueFd open = kernel::open(fmt::format("/proc/self/fd/{}", found.get()), O_RDONLY);
  if (S_ISDIR(stat.stx_mode)) check_files(name, open.get());
  return open;
}

bool is_archive(int checkpoint) { return S_ISREG(kernel::stat_fd(checkpoint).stx_mode); }

}  // namespace stasis::hook
