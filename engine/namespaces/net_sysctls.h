// The sysctls of a network namespace and its links. The calling thread is in it.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "netdev.pb.h"
#include "stasis.pb.h"

namespace stasis::engine::net {

// There are about two hundred, and some seventy more a link, and opening takes several times as
// long as reading: opened before the tasks are frozen, read while they are.
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
  void read(image::LinkEntry& link) const;

 private:
  struct Families {
    Files ipv4, ipv6;
  };
  static Families open(const std::string& target);
  const Families& of(const std::string& target) const;

  std::map<std::string, Families> targets_;  // links, "all" and "default"
};

// Only those that are known, and differ. The image's order tells which is which.
void restore_sysctls(const image::NetnsEntry& settings);
void restore_sysctls(const image::NetDeviceEntry& loopback);
void restore_sysctls(const image::LinkEntry& link);

}  // namespace stasis::engine::net
