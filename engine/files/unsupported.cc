#include "engine/files/unsupported.h"

#include <fmt/core.h>
#include <sys/sysmacros.h>

#include <charconv>
#include <string_view>

#include "base/text.h"
#include "engine/files/probe.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

namespace {

struct Name {
  std::string_view link, name;
};

constexpr Name anonymous[] = {
    {"[io_uring]", "an io_uring"},
    {"inotify", "an inotify instance"},
    {"[fanotify]", "a fanotify instance"},
    {"[userfaultfd]", "a userfaultfd"},
    {"[perf_event]", "a performance counter"},
    {"[pidfd]", "a pidfd"},
    {"bpf-map", "a BPF map"},
    {"bpf-prog", "a BPF program"},
    {"bpf_link", "a BPF link"},
    {"seccomp notify", "a seccomp notification listener"},
    {"[landlock-ruleset]", "a landlock rule set"},
    {"kvm-vm", "a virtual machine"},
    {"kvm-vcpu", "a virtual machine's CPU"},
};

struct Table {
  const char* file;
  const char* name;
  int inode_column;
};

// Where the kernel lists sockets with their inodes.
constexpr Table socket_tables[] = {
    {"tcp", "a TCP socket", 9},     {"tcp6", "a TCP socket", 9},
    {"udp", "a UDP socket", 9},     {"udp6", "a UDP socket", 9},
    {"unix", "a unix socket", 6},   {"netlink", "a netlink socket", 9},
    {"raw", "a raw IP socket", 9},  {"raw6", "a raw IP socket", 9},
    {"icmp", "a ping socket", 9},   {"packet", "a packet socket", 8},
    {"udplite", "a UDP socket", 9},
};

bool lists_inode(std::string_view table, int column, std::string_view inode) {
  text::next(table, '\n');  // the heading
  while (!table.empty()) {
    auto fields = text::words(text::next(table, '\n'));
    if (fields.size() > static_cast<size_t>(column) && fields[static_cast<size_t>(column)] == inode)
      return true;
  }
  return false;
}

std::string socket_name(const Probe& probe) {
  std::string inode = std::to_string(probe.stat.stx_ino);
  for (const Table& table : socket_tables) {
    std::string path = fmt::format("/proc/{}/net/{}", probe.pid, table.file);
    if (kernel::call(SYS_faccessat, AT_FDCWD, path.c_str(), R_OK) < 0) continue;
    if (lists_inode(kernel::read_file(path), table.inode_column, inode)) return table.name;
  }
  return "a socket";
}

bool is_terminal(const Probe& probe) {
  unsigned major = probe.stat.stx_rdev_major;
  return probe.is(S_IFCHR) && (major == 4 || major == 5 || (major >= 136 && major <= 143));
}

Objection of_anonymous(const Probe& probe) {
  std::string_view what = std::string_view(probe.link).substr(sizeof "anon_inode:" - 1);
  for (const Name& known : anonymous)
    if (what == known.link)
      return {fmt::format("holds {} open as descriptor {}", known.name, probe.number),
              "stop using it before the checkpoint; it cannot be written down yet"};
  return {fmt::format("holds a kernel object ({}) open as descriptor {}", what, probe.number),
          "it cannot be written down"};
}

}  // namespace

Objection unsupported(const Probe& probe) {
  if (probe.link.starts_with("anon_inode:")) return of_anonymous(probe);
  if (probe.is(S_IFSOCK))
    return {fmt::format("holds {} open as descriptor {}", socket_name(probe), probe.number),
            "close it before the checkpoint; sockets of this kind cannot be written down yet"};
  if (is_terminal(probe))
    return {fmt::format("holds the terminal {} open as descriptor {}", probe.link, probe.number),
            "start the container without a terminal (\"terminal\": false)"};
  if (probe.link.starts_with("/memfd:"))
    return {fmt::format("holds an anonymous memory file ({}) open as descriptor {}", probe.link,
                        probe.number),
            "it cannot be written down yet"};
  if (probe.is(S_IFCHR) || probe.is(S_IFBLK))
    return {fmt::format("holds the device {} ({}:{}) open as descriptor {}", probe.link,
                        probe.stat.stx_rdev_major, probe.stat.stx_rdev_minor, probe.number),
            "close it before the checkpoint; the state of a device cannot be written down"};
  return {fmt::format("holds {} open as descriptor {}", probe.link, probe.number),
          "it cannot be written down"};
}

}  // namespace stasis::engine::files
