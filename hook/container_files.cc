#include "hook/container_files.h"

#include <linux/magic.h>
#include <sys/statfs.h>
#include <sys/syscall.h>

#include "engine/mounts/archive.h"
#include "kernel/directories.h"
#include "kernel/fs.h"
#include "oci/document.h"

namespace stasis::hook {

namespace {

// As checkpointctl's metadata calls them, which podman, CRI-O and containerd share.
constexpr const char* changed_files = "rootfs-diff.tar";  // a tar; containerd's: a layer
constexpr const char* deleted_files = "deleted.files";    // JSON: their paths
constexpr const char* shared_memory = "devshm-checkpoint.tar";

UniqueFd find(int directory, const char* name) {
  long fd = kernel::try_open_in(directory, name, O_RDONLY | O_NOFOLLOW, RESOLVE_BENEATH);
  if (fd == -ENOENT) return {};
  return UniqueFd(static_cast<int>(kernel::must(fd, "open", name)));
}

void remove_deleted(int list, int root, const oci::Config& config) {
  oci::Document document(kernel::read_all(list, deleted_files), deleted_files);
  document.root().each([&](const oci::Node& node) {
    std::string path = node.as_string();
    path.erase(0, path.find_first_not_of('/'));
    engine::mounts::remove_beneath(root, path, config.root_path);
  });
}

void apply_to_root(int directory, const oci::Config& config, Log& log) {
  UniqueFd changed = find(directory, changed_files), deleted = find(directory, deleted_files);
  if (!changed.valid() && !deleted.valid()) return;
  if (config.has_namespace("user")) {
    log.warn(
        "{} in the archive is not applied: whose its files are in the container's user "
        "namespace isn't known",
        changed_files);
    return;
  }
  UniqueFd root = kernel::open(config.root_path, O_PATH | O_DIRECTORY);
  if (changed.valid()) engine::mounts::unpack_over(changed.get(), root.get(), config.root_path);
  if (deleted.valid()) remove_deleted(deleted.get(), root.get(), config);
  log.info("{} has the files that the container had changed", config.root_path);
}

// Of engines that make it on the host, where others may share it.
const oci::ConfigMount* shared_memory_mount(const oci::Config& config) {
  for (const oci::ConfigMount& mount : config.mounts)
    if (mount.destination == "/dev/shm" && mount.bind()) return &mount;
  return nullptr;
}

std::string fill_shared_memory(int content, const oci::Config& config) {
  const oci::ConfigMount* mount = shared_memory_mount(config);
  if (!mount) return "the runtime makes /dev/shm";
  if (config.has_namespace("user")) return "the container has a user namespace";
  UniqueFd source = kernel::open(mount->source, O_RDONLY | O_DIRECTORY);
  struct statfs fs{};
  kernel::must(kernel::call(SYS_fstatfs, source.get(), &fs), "look at", mount->source);
  if (fs.f_type != TMPFS_MAGIC) return mount->source + " is no tmpfs";
  if (!kernel::entries(source.get(), mount->source).empty())
    return mount->source + " isn't empty, others use it";
  engine::mounts::unpack_over(content, source.get(), mount->source);
  return "";
}

void apply_to_shared_memory(int directory, const oci::Config& config, Log& log) {
  constexpr uint64_t empty_tar = 1536;  // two blocks that end it, and the directory's own
  UniqueFd content = find(directory, shared_memory);
  if (!content.valid() || kernel::stat_fd(content.get()).stx_size <= empty_tar) return;
  std::string hindrance = fill_shared_memory(content.get(), config);
  if (hindrance.empty())
    log.info("/dev/shm has the files that the container had there");
  else
    log.warn("{} in the archive is not applied: {}", shared_memory, hindrance);
}

}  // namespace

bool is_of_container_files(const std::string& name) {
  return name == changed_files || name == deleted_files || name == shared_memory;
}

void apply_container_files(int directory, const oci::Config& config, Log& log) {
  apply_to_root(directory, config, log);
  apply_to_shared_memory(directory, config, log);
}

}  // namespace stasis::hook
