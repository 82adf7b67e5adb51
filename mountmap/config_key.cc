#include "mountmap/config_key.h"

#include <fcntl.h>
#include <sys/syscall.h>

#include "kernel/fs.h"
#include "mountmap/paths.h"

namespace stasis::mountmap {

std::string key_of(const oci::Config& config, const std::string& destination) {
  long root = kernel::call(SYS_openat, AT_FDCWD, config.root_path.c_str(),
                           O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (root < 0) return destination;
  UniqueFd root_fd(static_cast<int>(root));
  auto path_of = [](int fd) { return kernel::read_link("/proc/self/fd/" + std::to_string(fd)); };
  // The end of the path may be missing: what is there is resolved.
  std::string there = destination, missing;
  while (there.size() > 1) {
    long fd =
        kernel::try_open_in(root_fd.get(), there, O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
    if (fd >= 0) {
      UniqueFd here(static_cast<int>(fd));
      return oci::clean_path(rebase(path_of(here.get()), path_of(root_fd.get()), "/") + missing);
    }
    size_t slash = there.rfind('/');
    missing.insert(0, there.substr(slash));
    there.resize(slash);
  }
  return destination;
}

}  // namespace stasis::mountmap
