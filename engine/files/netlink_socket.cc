// Netlink sockets that nothing waits in: the kernel's answers to questions that
// a program has asked are of the moment.
#include <fmt/core.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <array>

#include "engine/files/dumper.h"
#include "engine/files/owner.h"
#include "engine/files/reopen.h"
#include "engine/files/restorer.h"
#include "engine/files/socket_network.h"
#include "engine/files/socket_options.h"
#include "kernel/fs.h"
#include "kernel/socket.h"

namespace stasis::engine::files {

namespace {

constexpr uint32_t connected = 1;  // the kernel's NETLINK_CONNECTED
constexpr int groups_at_bind = 32;

bool claims(const Probe& probe) { return probe.protocol == "NETLINK"; }

std::optional<Objection> object_to(const Probe& probe, int fd, const DumpPlan& plan) {
  if (!is_in_network_of(fd, plan.root)) return foreign_network("a netlink socket", probe.number);
  pollfd poll{fd, POLLIN, 0};
  kernel::must(kernel::call(SYS_poll, &poll, 1, 0), "poll", "a netlink socket");
  if (poll.revents & POLLIN)
    return Objection{fmt::format("holds a netlink socket open as descriptor {}, with messages "
                                 "that it has not read yet",
                                 probe.number),
                     "try again when the program has read them"};
  return std::nullopt;
}

std::optional<Objection> objection(const Probe& probe, const Surroundings& around) {
  UniqueFd process = kernel::pidfd_open(probe.pid);
  return object_to(probe, kernel::pidfd_getfd(process.get(), probe.number).get(), around.plan());
}

template <int number>
sockaddr_nl name_of(int fd) {
  sockaddr_nl name{};
  socklen_t size = sizeof name;
  kernel::must(kernel::call(number, fd, &name, &size), "read the address of", "a netlink socket");
  return name;
}

// The group of a mask; masks name the first 32.
uint32_t group_of(uint32_t mask) {
  uint32_t group = 0;
  for (; mask; mask >>= 1) ++group;
  return group;
}

void dump_groups(int fd, image::NetlinkSkEntry& entry) {
  auto words = kernel::socket_option<std::array<uint32_t, 32>>(
      fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, "read the groups of", "a netlink socket");
  size_t count = words.size();
  while (count > 0 && words[count - 1] == 0) --count;
  for (size_t i = 0; i < count; ++i) entry.add_groups(words[i]);
}

void dump(Dumper& dumper, const OpenFile& file, image::FileEntry& entry) {
  const int fd = file.fd.get();
  if (auto trouble = object_to(file.probe, fd, dumper.plan()))
    throw Error("dump", process_name(file.probe.pid))
        .because("it " + trouble->what)
        .hint(trouble->remedy);
  image::NetlinkSkEntry& netlink = *entry.mutable_nlsk();
  int protocol = kernel::socket_option<int>(fd, SOL_SOCKET, SO_PROTOCOL, "read the protocol of",
                                            "a netlink socket");
  const sockaddr_nl own = name_of<SYS_getsockname>(fd), other = name_of<SYS_getpeername>(fd);
  netlink.set_id(file.id);
  netlink.set_ino(static_cast<uint32_t>(file.probe.stat.stx_ino));
  netlink.set_protocol(static_cast<uint32_t>(protocol));
  netlink.set_state(other.nl_pid || other.nl_groups ? connected : 0);
  netlink.set_flags(file.probe.flags());
  netlink.set_portid(own.nl_pid);
  netlink.set_dst_portid(other.nl_pid);
  netlink.set_dst_group(group_of(other.nl_groups));
  netlink.set_ns_id(dumper.network_id());
  dump_groups(fd, netlink);
  *netlink.mutable_fown() = dump_owner(fd, file.probe.flags(), dumper.plan().root);
  *netlink.mutable_opts() = dump_socket_options(fd);
}

void bind_to(Restorer& restorer, int fd, const image::NetlinkSkEntry& entry) {
  sockaddr_nl name{};
  name.nl_family = AF_NETLINK;
  name.nl_pid = entry.portid();
  long bound = kernel::call(SYS_bind, fd, &name, sizeof name);
  if (bound == -EADDRINUSE) {
    restorer.log().warn("Netlink port {} is taken: file {} gets another", entry.portid(),
                        entry.id());
    name.nl_pid = 0;
    bound = kernel::call(SYS_bind, fd, &name, sizeof name);
  }
  kernel::must(bound, "bind", fmt::format("netlink socket (file {})", entry.id()));
  for (int word = 0; word < entry.groups_size(); ++word)
    for (int bit = 0; bit < groups_at_bind; ++bit) {
      if (!(entry.groups(word) >> bit & 1)) continue;
      int group = word * groups_at_bind + bit + 1;
      kernel::set_socket_option(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group, "join",
                                fmt::format("netlink group {}", group));
    }
}

UniqueFd make(Restorer& restorer, const image::FileEntry& file) {
  const image::NetlinkSkEntry& entry = file.nlsk();
  UniqueFd fd;
  restorer.in_network([&] {
    long made = kernel::call(SYS_socket, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, entry.protocol());
    fd.reset(static_cast<int>(kernel::must(made, "make", "a netlink socket")));
  });
  if (entry.portid()) bind_to(restorer, fd.get(), entry);
  if (entry.state() == connected) {
    sockaddr_nl name{};
    name.nl_family = AF_NETLINK;
    name.nl_pid = entry.dst_portid();
    if (entry.dst_group()) name.nl_groups = 1U << (entry.dst_group() - 1);
    kernel::must(kernel::call(SYS_connect, fd.get(), &name, sizeof name), "connect",
                 "a netlink socket");
  }
  restore_socket_options(fd.get(), entry.opts());
  set_status_flags(fd.get(), entry.flags());
  restorer.restore_owner(fd.get(), entry.fown());
  return fd;
}

}  // namespace

const FileKind netlink_kind = {"a netlink socket", image::NETLINKSK, claims, objection, dump, make};

}  // namespace stasis::engine::files
