// The sysctls of a network namespace and its loopback. The calling thread is in it.
#pragma once

#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "netdev.pb.h"

namespace stasis::engine::net {

// There are about two hundred, and opening takes several times as long as reading:
// opened before the tasks are frozen, read while they are.
class Sysctls {
 public:
  struct File {
    std::string path;
    UniqueFd fd;  // invalid: the kernel has none
  };
  using Files = std::vector<File>;  // in the format's order

  Sysctls();

  void read(image::NetnsEntry& settings) const;  // of "all" and "default"
  void read(image::NetDeviceEntry& loopback) const;

 private:
  Files all4_, default4_, loopback4_, all6_, default6_, loopback6_;
};

// Only those that are known, and differ. The image's order tells which is which.
void restore_sysctls(const image::NetnsEntry& settings);
void restore_sysctls(const image::NetDeviceEntry& loopback);

}  // namespace stasis::engine::net
