#include "engine/mounts/xattrs.h"

#include <linux/capability.h>
#include <linux/limits.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstring>

#include "base/text.h"
#include "kernel/call.h"

namespace stasis::engine::mounts {

bool is_kept_xattr(const std::string& name) {
  return name.starts_with("user.") || name.starts_with("trusted.") ||
         name == "security.capability" || name == "system.posix_acl_access" ||
         name == "system.posix_acl_default";
}

namespace {

// Capabilities that count in one user namespace tell its root; inside that is
// left out.
void look_at_capabilities(std::string& value, const userns::IdMap& ids) {
  vfs_ns_cap_data data{};
  if (!ids.maps() || value.size() != sizeof data) return;
  memcpy(&data, value.data(), sizeof data);
  if (ids.find_uid_inside(data.rootid) != 0U) return;
  data.magic_etc = VFS_CAP_REVISION_2 | (data.magic_etc & VFS_CAP_FLAGS_EFFECTIVE);
  value.assign(reinterpret_cast<const char*>(&data), sizeof(vfs_cap_data));
}

void look_at_access_list(std::string& value, const userns::IdMap& ids, const std::string& path) {
  for (size_t at = sizeof(posix_acl_xattr_header);
       at + sizeof(posix_acl_xattr_entry) <= value.size(); at += sizeof(posix_acl_xattr_entry)) {
    posix_acl_xattr_entry entry;
    memcpy(&entry, value.data() + at, sizeof entry);
    if (entry.e_tag == ACL_USER) entry.e_id = ids.uid_inside(entry.e_id, path);
    if (entry.e_tag == ACL_GROUP) entry.e_id = ids.gid_inside(entry.e_id, path);
    memcpy(value.data() + at, &entry, sizeof entry);
  }
}

}  // namespace

Xattrs read_xattrs(const std::string& path, const userns::IdMap& ids) {
  Xattrs result;
  char names[4096];
  std::string many;
  std::string_view list;
  long size = kernel::call(SYS_llistxattr, path.c_str(), names, sizeof names);
  if (size == -ENOTSUP) return result;
  if (size == -ERANGE) {
    many.resize(XATTR_LIST_MAX);
    size = kernel::call(SYS_llistxattr, path.c_str(), many.data(), many.size());
    list = many;
  } else {
    list = {names, sizeof names};
  }
  kernel::must(size, "list the extended attributes of", path);
  for (auto rest = list.substr(0, static_cast<size_t>(size)); !rest.empty();) {
    std::string name(text::next(rest, '\0'));
    if (!is_kept_xattr(name)) continue;
    std::string value(XATTR_SIZE_MAX, '\0');
    long length = kernel::must(
        kernel::call(SYS_lgetxattr, path.c_str(), name.c_str(), value.data(), value.size()),
        "read the extended attribute " + name + " of", path);
    value.resize(static_cast<size_t>(length));
    if (name == "security.capability") look_at_capabilities(value, ids);
    if (name.starts_with("system.posix_acl")) look_at_access_list(value, ids, path);
    result.emplace_back(std::move(name), std::move(value));
  }
  return result;
}

void write_xattrs(const std::string& path, const Xattrs& attributes) {
  for (const auto& [name, value] : attributes)
    kernel::must(
        kernel::call(SYS_lsetxattr, path.c_str(), name.c_str(), value.data(), value.size(), 0),
        "set the extended attribute " + name + " of", path);
}

}  // namespace stasis::engine::mounts
