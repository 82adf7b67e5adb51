#include "engine/files/socket_network.h"

#include <fmt/core.h>
#include <linux/sockios.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "engine/namespaces/ns_ids.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

bool is_in_network_of(int fd, pid_t root) {
  long opened = kernel::call(SYS_ioctl, fd, SIOCGSKNS, 0);
  UniqueFd ns(static_cast<int>(kernel::must(opened, "find the network of", "a socket")));
  return kernel::stat_fd(ns.get()).stx_ino == namespaces::NsIds(root).inode(CLONE_NEWNET);
}

Objection foreign_network(std::string_view name, int number) {
  return {fmt::format("holds {} open as descriptor {}, of another network namespace than the "
                      "container's",
                      name, number),
          "close it before the checkpoint, or open it in the container"};
}

}  // namespace stasis::engine::files
