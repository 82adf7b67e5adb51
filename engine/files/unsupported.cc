#include "engine/files/unsupported.h"

#include <fmt/core.h>

#include <string_view>

#include "engine/files/probe.h"

namespace stasis::engine::files {

namespace {

struct Name {
  std::string_view link, name;
};

constexpr Name anonymous[] = {
    {"[io_uring]", "an io_uring"},
    {"[fanotify]", "a fanotify instance"},
    {"[userfaultfd]", "a userfaultfd"},
    {"[perf_event]", "a performance counter"},
    {"bpf-map", "a BPF map"},
    {"bpf-prog", "a BPF program"},
    {"bpf_link", "a BPF link"},
    {"seccomp notify", "a seccomp notification listener"},
    {"[landlock-ruleset]", "a landlock rule set"},
    {"kvm-vm", "a virtual machine"},
    {"kvm-vcpu", "a virtual machine's CPU"},
};

constexpr Name protocols[] = {
    {"MPTCP", "an MPTCP socket"},
    {"AF_VSOCK", "a vsock socket"},
    {"XDP", "an XDP socket"},
};

std::string socket_name(const Probe& probe) {
  for (const Name& known : protocols)
    if (probe.protocol == known.link) return std::string(known.name);
  return probe.protocol.empty() ? "a socket" : fmt::format("a socket ({})", probe.protocol);
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
    return {fmt::format("holds the terminal {} open as descriptor {}, which is the machine's own",
                        probe.link, probe.number),
            "close it before the checkpoint; only pseudoterminals can be written down"};
  if (probe.is(S_IFCHR) || probe.is(S_IFBLK))
    return {fmt::format("holds the device {} ({}:{}) open as descriptor {}", probe.link,
                        probe.stat.stx_rdev_major, probe.stat.stx_rdev_minor, probe.number),
            "close it before the checkpoint; the state of a device cannot be written down"};
  return {fmt::format("holds {} open as descriptor {}", probe.link, probe.number),
          "it cannot be written down"};
}

}  // namespace stasis::engine::files
