// Internet sockets: TCP, UDP, UDP-Lite, raw and ping, IPv4 and IPv6.
#include <fmt/core.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "base/text.h"
#include "engine/files/connections.h"
#include "engine/files/dumper.h"
#include "engine/files/further_options.h"
#include "engine/files/inet_address.h"
#include "engine/files/inet_options.h"
#include "engine/files/owner.h"
#include "engine/files/reopen.h"
#include "engine/files/restorer.h"
#include "engine/files/socket_network.h"
#include "engine/files/tcp_connection.h"
#include "engine/image/checkpoint.h"
#include "engine/namespaces/sysctl.h"
#include "kernel/fs.h"

#ifndef TCP_ULP
#define TCP_ULP 31
#endif
#ifndef UDP_CORK
#define UDP_CORK 1
#endif

namespace stasis::engine::files {

namespace {

constexpr std::string_view protocols[] = {"TCP",       "TCPv6", "UDP",   "UDPv6", "UDP-Lite",
                                          "UDPLITEv6", "RAW",   "RAWv6", "PING",  "PINGv6"};

bool claims(const Probe& probe) {
  return std::find(std::begin(protocols), std::end(protocols), probe.protocol) !=
         std::end(protocols);
}

struct InetSocket {
  int family = 0, type = 0, protocol = 0;
  InetEnds ends;
  int state = TCP_CLOSE;
  uint32_t waiting = 0, backlog = 0;  // of one that listens

  bool is_tcp() const { return protocol == IPPROTO_TCP && type == SOCK_STREAM; }
  bool is_udp() const {
    return type == SOCK_DGRAM && (protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE);
  }
};

InetSocket look_at(int fd) {
  InetSocket socket;
  socket.family = static_cast<int>(get_option(fd, SOL_SOCKET, SO_DOMAIN));
  socket.type = static_cast<int>(get_option(fd, SOL_SOCKET, SO_TYPE));
  socket.protocol = static_cast<int>(get_option(fd, SOL_SOCKET, SO_PROTOCOL));
  socket.ends = read_ends(fd, socket.family);
  if (socket.is_tcp()) {
    TcpInfo info = tcp_info(fd);
    socket.state = info.state;
    if (info.state == TCP_LISTEN) {
      socket.waiting = info.waiting;
      socket.backlog = info.backlog;
    }
  } else if (socket.ends.connected()) {
    socket.state = TCP_ESTABLISHED;
  }
  return socket;
}

bool has_upper_protocol(int fd) {
  char name[16] = {};
  socklen_t size = sizeof name;
  return kernel::call(SYS_getsockopt, fd, IPPROTO_TCP, TCP_ULP, name, &size) == 0 && size > 0 &&
         name[0];
}

struct Trouble {
  std::string what, remedy;
};

Trouble with_tcp(int fd, const InetSocket& socket, const DumpPlan& plan) {
  if (has_upper_protocol(fd))
    return {"that encrypts in the kernel", "turn kernel TLS off in the program"};
  if (socket.state == TCP_LISTEN && socket.waiting > 0 && !plan.skip_in_flight)
    return {fmt::format("that listens at {}, with {} connections not accepted yet",
                        socket.ends.local.text(), socket.waiting),
            "try again, or leave them behind with --skip-in-flight"};
  if (socket.ends.connected() && socket.state != TCP_CLOSE && !plan.tcp_established &&
      !plan.tcp_close)
    return {fmt::format("connected from {}", socket.ends.text()),
            "checkpoint with --tcp-established to take the connection along, or with --tcp-close "
            "to have it closed after the restore"};
  return {};
}

Trouble trouble_with(int fd, const InetSocket& socket, const DumpPlan& plan) {
  // An eBPF program can't be read back, a filter can.
  socklen_t count = 0;
  if (kernel::call(SYS_getsockopt, fd, SOL_SOCKET, SO_GET_FILTER, nullptr, &count) == -EACCES)
    return {"with an eBPF filter", "it cannot be written down"};
  if (socket.is_udp() && get_option(fd, IPPROTO_UDP, UDP_CORK))
    return {"that is corked, with a datagram half written", "try again when it is sent"};
  return socket.is_tcp() ? with_tcp(fd, socket, plan) : Trouble{};
}

const char* name_of(const InetSocket& socket) {
  if (socket.type == SOCK_RAW) return "a raw IP socket";
  if (socket.is_tcp()) return "a TCP socket";
  if (socket.protocol == IPPROTO_UDPLITE) return "a UDP-Lite socket";
  return socket.is_udp() ? "a UDP socket" : "a ping socket";
}

std::optional<Objection> object_to(const Probe& probe, int fd, const InetSocket& socket,
                                   const DumpPlan& plan) {
  if (!is_in_network_of(fd, plan.root)) return foreign_network(name_of(socket), probe.number);
  Trouble trouble = trouble_with(fd, socket, plan);
  if (trouble.what.empty()) return std::nullopt;
  return Objection{fmt::format("holds {} open as descriptor {}, {}", name_of(socket), probe.number,
                               trouble.what),
                   trouble.remedy};
}

std::optional<Objection> objection(const Probe& probe, const Surroundings& around) {
  UniqueFd process = kernel::pidfd_open(probe.pid);
  UniqueFd copy = kernel::pidfd_getfd(process.get(), probe.number);
  return object_to(probe, copy.get(), look_at(copy.get()), around.plan());
}

// Of a TCP socket without another end: nothing but poll tells it.
int shutdown_of_tcp(int fd) {
  pollfd poll{fd, POLLRDHUP | POLLHUP, 0};
  kernel::must(kernel::call(SYS_poll, &poll, 1, 0), "poll", "a socket");
  return poll.revents & POLLRDHUP ? image::READ : 0;
}

// Datagrams may be lost, and nothing could put them back with their senders.
void warn_of_datagrams(Dumper& dumper, const OpenFile& file) {
  pollfd poll{file.fd.get(), POLLIN, 0};
  if (kernel::call(SYS_poll, &poll, 1, 0) > 0 && poll.revents & POLLIN)
    dumper.log().warn("{} holds datagrams in {} that it hasn't read: they are not taken along",
                      process_name(file.probe.pid), file.probe.described());
}

void dump(Dumper& dumper, const OpenFile& file, image::FileEntry& entry) {
  const int fd = file.fd.get();
  InetSocket socket = look_at(fd);
  if (auto trouble = object_to(file.probe, fd, socket, dumper.plan()))
    throw Error("dump", process_name(file.probe.pid))
        .because("it " + trouble->what)
        .hint(trouble->remedy);
  image::InetSkEntry& inet = *entry.mutable_isk();
  inet.set_id(file.id);
  inet.set_ino(static_cast<uint32_t>(file.probe.stat.stx_ino));
  inet.set_family(static_cast<uint32_t>(socket.family));
  inet.set_type(static_cast<uint32_t>(socket.type));
  inet.set_proto(static_cast<uint32_t>(socket.protocol));
  inet.set_state(static_cast<uint32_t>(socket.state));
  inet.set_flags(file.probe.flags());
  inet.set_backlog(socket.backlog);
  inet.set_ns_id(dumper.network_id());
  set_ends(socket.ends, inet);
  *inet.mutable_fown() = dump_owner(fd, file.probe.flags(), dumper.plan().root);
  dump_inet_options(fd, inet);
  image::StasisEntry more;
  *more.add_socket_options() = dump_further_options(fd, inet);
  dumper.writer().append("stasis", more);
  if (socket.ends.local.port != 0 && socket.ends.local.link_local())
    inet.set_ifname(inet.opts().so_bound_dev());
  if (!socket.is_tcp()) warn_of_datagrams(dumper, file);
  int shut = 0;
  if (socket.is_udp()) {
    const auto& shutdowns = dumper.udp_shutdowns();
    if (auto found = shutdowns.find(inet.ino()); found != shutdowns.end()) shut = found->second;
  } else if (socket.is_tcp() && socket.state == TCP_CLOSE && !socket.ends.connected()) {
    shut = shutdown_of_tcp(fd);
  }
  if (shut != 0) inet.set_shutdown(static_cast<image::SkShutdown>(shut));
}

std::string describe(const image::InetSkEntry& entry) {
  std::string_view name = entry.type() == SOCK_RAW           ? "the raw socket"
                          : entry.proto() == IPPROTO_TCP     ? "the TCP socket"
                          : entry.proto() == IPPROTO_UDP     ? "the UDP socket"
                          : entry.proto() == IPPROTO_UDPLITE ? "the UDP-Lite socket"
                                                             : "the ping socket";
  return fmt::format("{} {}", name, ends_of(entry).local.text());
}

void bind_to(Restorer& restorer, int fd, const image::InetSkEntry& entry) {
  InetAddress local = ends_of(entry).local;
  if (local.port == 0 && local.any()) return;
  // An IPv6 address that was just given is for a while not there to be bound.
  const bool early = local.family == AF_INET6 && entry.type() != SOCK_RAW;
  sockaddr_storage address{};
  long bound = 0;
  restorer.in_network([&] {
    if (entry.has_ifname()) local.scope = if_nametoindex(entry.ifname().c_str());
    socklen_t size = to_sockaddr(local, address);
    if (early) set_option(fd, IPPROTO_IPV6, IPV6_FREEBIND, 1);
    bound = kernel::call(SYS_bind, fd, &address, size);
    if (early && !entry.ip_opts().freebind()) set_option(fd, IPPROTO_IPV6, IPV6_FREEBIND, 0);
  });
  if (bound == -EADDRNOTAVAIL)
    throw Error("restore", describe(entry))
        .with_errno(EADDRNOTAVAIL)
        .because("the container's network has no such address")
        .hint("restore it into a network with the address that it had");
  if (bound == -EADDRINUSE)
    throw Error("restore", describe(entry))
        .with_errno(EADDRINUSE)
        .because("somebody else has it in the container's network")
        .hint("end what uses the port there");
  kernel::must(bound, "bind", describe(entry));
}

// Ping sockets are for the groups that the network namespace says: this thread
// takes one of them on for a moment.
long socket_of_group(const std::function<long()>& make) {
  auto range = sysctl::find("net/ipv4/ping_group_range");
  auto words = range ? text::words(*range) : decltype(text::words(*range)){};
  auto group = words.empty() ? std::nullopt : text::to_int<gid_t>(words.front());
  std::array<gid_t, 3> own{};
  if (!group || kernel::call(SYS_getresgid, &own[0], &own[1], &own[2]) < 0 ||
      kernel::call(SYS_setresgid, -1, *group, -1) < 0)
    return -EACCES;
  long made = make();
  kernel::must(kernel::call(SYS_setresgid, -1, own[1], -1), "return to", "our own group");
  return made;
}

UniqueFd make_socket(Restorer& restorer, const image::InetSkEntry& entry) {
  UniqueFd fd;
  restorer.in_network([&] {
    auto make = [&] {
      return kernel::call(SYS_socket, entry.family(), entry.type() | SOCK_CLOEXEC | SOCK_NONBLOCK,
                          entry.proto());
    };
    long made = make();
    if (made == -EACCES && entry.type() == SOCK_DGRAM) made = socket_of_group(make);
    fd.reset(static_cast<int>(kernel::must(made, "make", describe(entry))));
    restore_binding_options(fd.get(), entry);
  });
  const auto& further = restorer.image().socket_options;
  if (auto found = further.find(entry.id()); found != further.end())
    restore_further_options(fd.get(), entry, found->second, restorer.log());
  return fd;
}

void make_connection(Restorer& restorer, int fd, const image::InetSkEntry& entry) {
  if (closes_connections(
          restorer.image(),
          restorer.plan())) {  // what its program finds is a connection that has ended
    kernel::call(SYS_shutdown, fd, SHUT_RDWR);
    return;
  }
  restorer.connections().make_others_first(restorer);
  const image::TcpStreamImage& image = restorer.image().streams.at(entry.ino());
  InetEnds ends = ends_of(entry);
  TcpStream stream{static_cast<int>(entry.state()), image.entry, image.received, image.sent};
  UniqueFd kept = duplicate(fd);  // to the end, when `fd` is only the task's
  Repair repair(kept.get(), entry.opts().reuseaddr());
  bind_to(restorer, fd, entry);
  restorer.in_network([&] { write_connection(fd, ends, stream, "the connection " + ends.text()); });
  restorer.connections().add(std::move(kept), std::move(repair));
}

// Sockets that share a port may have been bound when their options were
// others: what one of them has, or needs, all have until they are bound.
struct Sharing {
  bool address = false, port = false;  // SO_REUSEADDR, SO_REUSEPORT
};
Sharing sharing_of(const Restorer& restorer, const image::InetSkEntry& entry) {
  Sharing sharing{entry.opts().reuseaddr(), entry.opts().so_reuseport()};
  if (entry.src_port() == 0 || entry.type() == SOCK_RAW) return sharing;
  for (const auto& [id, file] : restorer.entries()) {
    const image::InetSkEntry& other = file.isk();
    if (file.type() != image::INETSK || id == entry.id() || is_connection(other) ||
        other.proto() != entry.proto() || other.src_port() != entry.src_port())
      continue;
    sharing.address = true;
    sharing.port |= other.opts().so_reuseport();
  }
  return sharing;
}

void share(Restorer& restorer, int fd, const image::InetSkEntry& entry) {
  Sharing sharing = sharing_of(restorer, entry);
  set_option(fd, SOL_SOCKET, SO_REUSEADDR, sharing.address);
  set_option(fd, SOL_SOCKET, SO_REUSEPORT, sharing.port);
  bool address = entry.opts().reuseaddr(), port = entry.opts().so_reuseport();
  if (address == sharing.address && port == sharing.port) return;
  restorer.when_all_are_made([fd, address, port] {
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, address);
    set_option(fd, SOL_SOCKET, SO_REUSEPORT, port);
  });
}

void make_unconnected(Restorer& restorer, int fd, const image::InetSkEntry& entry) {
  share(restorer, fd, entry);
  bind_to(restorer, fd, entry);
  if (entry.state() == TCP_LISTEN)
    kernel::must(kernel::call(SYS_listen, fd, entry.backlog()), "listen with", describe(entry));
  InetEnds ends = ends_of(entry);
  if (!ends.connected()) return;
  sockaddr_storage address{};
  if (ends.remote.link_local() && entry.has_ifname())
    restorer.in_network([&] { ends.remote.scope = if_nametoindex(entry.ifname().c_str()); });
  socklen_t size = to_sockaddr(ends.remote, address);
  kernel::must(kernel::call(SYS_connect, fd, &address, size), "connect",
               describe(entry) + " to " + ends.remote.text());
}

UniqueFd make(Restorer& restorer, const image::FileEntry& file) {
  const image::InetSkEntry& entry = file.isk();
  UniqueFd fd = make_socket(restorer, entry);
  if (is_connection(entry))
    make_connection(restorer, fd.get(), entry);
  else
    make_unconnected(restorer, fd.get(), entry);
  restore_inet_options(fd.get(), entry);
  if (!is_connection(entry))
    set_option(fd.get(), SOL_SOCKET, SO_REUSEADDR, sharing_of(restorer, entry).address);
  // Of a socket without another end it is noted all the same, which the kernel calls an error.
  if (entry.has_shutdown() && entry.shutdown() != image::NONE && !is_connection(entry))
    kernel::call(SYS_shutdown, fd.get(), static_cast<int>(entry.shutdown()) - 1);
  set_status_flags(fd.get(), entry.flags());
  restorer.restore_owner(fd.get(), entry.fown());
  return fd;
}

}  // namespace

const FileKind inet_kind = {"an internet socket", image::INETSK, claims, objection, dump, make};

}  // namespace stasis::engine::files
