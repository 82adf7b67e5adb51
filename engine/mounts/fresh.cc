#include "engine/mounts/fresh.h"

#include <sys/mount.h>

#include "engine/mounts/archive.h"
#include "engine/mounts/fs_types.h"
#include "kernel/mount_api.h"

namespace stasis::engine::mounts {

namespace {

void set_options(kernel::FsContext& context, const FreshMount& what, const std::string& type) {
  const auto& text = type == "cgroup2" ? what.cgroup_options : what.entry->options();
  for (auto& [name, value] : split_options(text)) {
    // Shown by the kernel, but not to be set; and one that would let the image
    // name a program that the host runs.
    if (name == "seclabel" || name == "release_agent") continue;
    if (name == "context" && !what.lsm_context.empty()) value = what.lsm_context;
    if (value)
      context.set(name, *value);
    else
      context.set(name);
  }
  uint32_t flags = what.entry->sb_flags();
  if (flags & MS_SYNCHRONOUS) context.set("sync");
  if (flags & MS_DIRSYNC) context.set("dirsync");
  if (flags & MS_LAZYTIME) context.set("lazytime");
}

}  // namespace

uint64_t mount_attributes(const image::MntEntry& entry) {
  constexpr uint32_t no_symlinks = 256;  // MS_NOSYMFOLLOW
  uint32_t flags = entry.flags();
  uint64_t result = 0;
  if (flags & MS_RDONLY) result |= MOUNT_ATTR_RDONLY;
  if (flags & MS_NOSUID) result |= MOUNT_ATTR_NOSUID;
  if (flags & MS_NODEV) result |= MOUNT_ATTR_NODEV;
  if (flags & MS_NOEXEC) result |= MOUNT_ATTR_NOEXEC;
  if (flags & MS_NODIRATIME) result |= MOUNT_ATTR_NODIRATIME;
  if (flags & no_symlinks) result |= MOUNT_ATTR_NOSYMFOLLOW;
  if (flags & MS_NOATIME)
    result |= MOUNT_ATTR_NOATIME;
  else if (flags & MS_STRICTATIME)
    result |= MOUNT_ATTR_STRICTATIME;
  return result;
}

UniqueFd make_fresh(const FreshMount& what) {
  const auto& entry = *what.entry;
  auto type = mountable_type(entry).value_or("");
  kernel::FsContext context(type);
  const auto& source = what.source.empty() ? entry.source() : what.source;
  if (!source.empty()) context.set("source", source);
  set_options(context, what, type);
  bool read_only = entry.sb_flags() & MS_RDONLY;
  if (read_only && !what.content.valid()) context.set("ro");
  context.create();
  uint64_t attributes = mount_attributes(entry);
  if (!what.content.valid()) return context.mount(static_cast<unsigned>(attributes));
  // Filled first, protected then.
  UniqueFd mount = context.mount(static_cast<unsigned>(attributes & ~MOUNT_ATTR_RDONLY));
  unpack(what.content.get(), mount.get(), entry.mountpoint());
  if (read_only) {
    auto change = kernel::FsContext::pick(mount.get(), type);
    change.set("ro");
    change.reconfigure();
  }
  if (attributes & MOUNT_ATTR_RDONLY)
    kernel::set_mount_attributes(mount.get(), MOUNT_ATTR_RDONLY, 0, 0, entry.mountpoint());
  return mount;
}

}  // namespace stasis::engine::mounts
