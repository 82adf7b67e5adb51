#include "engine/files/sock_diag.h"

#include <sched.h>

#include <optional>

#include "engine/namespaces/namespaces.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

kernel::Netlink sock_diag(pid_t pid) {
  if (pid == 0) return kernel::Netlink(NETLINK_SOCK_DIAG);
  std::optional<kernel::Netlink> netlink;
  namespaces::in_namespaces(kernel::pidfd_open(pid).get(), CLONE_NEWNET,
                            [&] { netlink.emplace(NETLINK_SOCK_DIAG); });
  // in_namespaces() has made it, or thrown. NOLINTNEXTLINE(bugprone-unchecked-optional-access)
  return std::move(netlink).value();
}

}  // namespace stasis::engine::files
