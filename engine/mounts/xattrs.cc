#include "engine/mounts/xattrs.h"

#include <linux/limits.h>
#include <sys/syscall.h>

#include <cerrno>

#include "base/text.h"
#include "kernel/call.h"

namespace stasis::engine::mounts {

bool is_kept_xattr(const std::string& name) {
  return name.starts_with("user.") || name.starts_with("trusted.") ||
         name == "security.capability" || name == "system.posix_acl_access" ||
         name == "system.posix_acl_default";
}

Xattrs read_xattrs(const std::string& path) {
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
