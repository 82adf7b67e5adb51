#include "plugins/loaded.h"

#include <dlfcn.h>
#include <fmt/core.h>
#include <sys/stat.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <utility>

#include "kernel/directories.h"
#include "kernel/fs.h"
#include "plugins/stasis_mount.h"

namespace stasis::plugins {

namespace {

constexpr uint64_t plainly = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;

void check_owner(const std::string& path, int type, bool shared) {
  UniqueFd fd = kernel::open_in(AT_FDCWD, path, O_PATH | type, plainly);
  auto stat = kernel::stat_fd(fd.get());
  Error refusal("use plugins from", path);
  if (type == 0 && !S_ISREG(stat.stx_mode)) throw refusal.because("it is no file");
  kernel::check_roots_own(refusal, "it", stat, shared);
}

// Whoever can change a directory above could put another one in its place.
void check_directory(const std::string& directory) {
  if (!directory.starts_with('/'))
    throw Error("use plugins from", directory).because("it is no absolute path");
  for (size_t end = 1; end < directory.size(); ++end)
    if (directory[end] == '/') check_owner(directory.substr(0, end), O_DIRECTORY, true);
  check_owner("/", O_DIRECTORY, true);
  check_owner(directory, O_DIRECTORY, false);
}

struct Unload {
  void operator()(void* object) const { dlclose(object); }
};
using Object = std::unique_ptr<void, Unload>;

Error unusable(const std::string& path, std::string cause) {
  return Error("load the plugin", path)
      .because(std::move(cause))
      .hint(
          "Remove it, or install the "
          "one that belongs to this stasis.");
}

void* find(const Object& object, const std::string& path, const char* symbol) {
  void* found = dlsym(object.get(), symbol);
  if (!found) throw unusable(path, fmt::format("it has no {}: it is no plugin of stasis", symbol));
  return found;
}

bool is_name(const char* name) {
  if (!name || !*name) return false;
  for (const char* c = name; *c; ++c)
    if (!isalnum(static_cast<unsigned char>(*c)) && *c != '-' && *c != '_') return false;
  return true;
}

class Loaded : public mountmap::MountProvider {
 public:
  Loaded(Object object, const stasis_mount_provider& calls, std::string path)
      : object_(std::move(object)), calls_(calls), path_(std::move(path)) {}

  std::string name() const override { return calls_.name; }

  bool claims(const mountmap::Mount& mount) const override {
    stasis_mount told = tell(mount);
    return calls_.claims(&told) != 0;
  }

  std::string describe(const mountmap::Mount& mount) const override {
    stasis_mount told = tell(mount);
    std::string description(STASIS_MOUNT_DESCRIPTION_MAX, '\0');
    Failure failure;
    long size = calls_.describe(&told, description.data(), description.size(), &failure.out);
    if (size < 0)
      throw failure.error("checkpoint the mount " + mount.mountpoint + " by", *this, size);
    if (static_cast<size_t>(size) > description.size())
      throw unusable(path_, fmt::format("it describes {} with {} bytes", mount.mountpoint, size));
    description.resize(static_cast<size_t>(size));
    return description;
  }

  UniqueFd make(const std::string& description) const override {
    Failure failure;
    int fd = calls_.make(description.data(), description.size(), &failure.out);
    if (fd < 0) throw failure.error("make a mount by", *this, fd);
    return UniqueFd(fd);
  }

 private:
  struct Failure {
    char text[512] = {};
    stasis_failure out{text, sizeof text};
    Error error(const std::string& operation, const Loaded& plugin, long code) {
      text[sizeof text - 1] = '\0';
      Error error = Error(operation, "the plugin " + plugin.name());
      error.with_errno(static_cast<int>(-code));
      if (*text) error.because(text);
      return error;
    }
  };

  static stasis_mount tell(const mountmap::Mount& mount) {
    return {.size = sizeof(stasis_mount),
            .type = mount.fstype.c_str(),
            .source = mount.source.c_str(),
            .root = mount.root.c_str(),
            .mountpoint = mount.mountpoint.c_str(),
            .options = mount.sb_options.c_str(),
            .major = mount.major,
            .minor = mount.minor};
  }

  Object object_;
  const stasis_mount_provider& calls_;
  std::string path_;
};

std::unique_ptr<mountmap::MountProvider> load(const std::string& path) {
  check_owner(path, 0, false);
  Object object(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL));
  if (!object) {
    const char* said = dlerror();
    throw unusable(path, said ? said : "the loader doesn't tell why");
  }
  auto abi = *static_cast<const unsigned*>(find(object, path, "stasis_mount_abi"));
  if (abi != STASIS_MOUNT_ABI)
    throw unusable(path, fmt::format("it is made for version {} of the interface of plugins, and "
                                     "this stasis has version {}",
                                     abi, STASIS_MOUNT_ABI));
  auto entry = reinterpret_cast<const stasis_mount_provider* (*)()>(
      find(object, path, "stasis_mount_entry"));
  const stasis_mount_provider* calls = entry();
  if (!calls || !is_name(calls->name) || !calls->claims || !calls->describe || !calls->make)
    throw unusable(path, "it lacks a name, claims(), describe() or make()");
  return std::make_unique<Loaded>(std::move(object), *calls, path);
}

}  // namespace

std::vector<std::unique_ptr<mountmap::MountProvider>> load_plugins(const std::string& directory) {
  check_directory(directory);
  std::vector<std::string> names = kernel::entries(directory);
  std::sort(names.begin(), names.end());
  std::vector<std::unique_ptr<mountmap::MountProvider>> loaded;
  for (const std::string& name : names)
    if (name.ends_with(".so")) loaded.push_back(load(fmt::format("{}/{}", directory, name)));
  return loaded;
}

}  // namespace stasis::plugins
