#include "engine/namespaces/sysctl.h"

#include <sys/syscall.h>

#include "base/text.h"
#include "kernel/fs.h"

namespace stasis::engine::sysctl {

namespace {
std::string path_of(const std::string& name) { return "/proc/sys/" + name; }
}  // namespace

std::optional<std::string> find(const std::string& name) {
  const std::string path = path_of(name);
  long fd = kernel::call(SYS_openat, AT_FDCWD, path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd == -ENOENT) return std::nullopt;
  UniqueFd file(static_cast<int>(kernel::must(fd, "open", path)));
  return value_of(file.get(), path);
}

std::optional<std::string> value_of(int file, const std::string& path) {
  char buffer[512];
  long size = kernel::call(SYS_pread64, file, buffer, sizeof buffer, 0);
  if (size == -EIO) return std::nullopt;     // it has no value yet
  if (size == -ENOENT) return std::nullopt;  // it was there when it was opened
  kernel::must(size, "read", path);
  return std::string(text::trim({buffer, static_cast<size_t>(size)}));
}

std::string read(const std::string& name) {
  auto value = find(name);
  if (!value) throw Error("read", path_of(name)).with_errno(ENOENT);
  return *value;
}

void write(const std::string& name, const std::string& value) {
  kernel::write_file(path_of(name), value);
}

}  // namespace stasis::engine::sysctl
