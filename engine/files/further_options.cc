#include "engine/files/further_options.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernel/call.h"
#include "kernel/socket.h"

namespace stasis::engine::files {

namespace {

struct Option {
  int level, name;
  bool operator==(const Option&) const = default;
};

// Newer than the headers of the oldest system that we are built on.
constexpr int ip_local_port_range = 51, tcp_tx_delay = 37;

// Numbers that mean the same when they are set as when they are read, and are the program's choice
// alone. No other is set, whatever an image says.
constexpr std::array of_all{SO_RXQ_OVFL,        SO_PEEK_OFF,         SO_BUSY_POLL,
                            SO_ZEROCOPY,        SO_SELECT_ERR_QUEUE, SO_TIMESTAMP_OLD,
                            SO_TIMESTAMPNS_OLD, SO_TIMESTAMP_NEW,    SO_TIMESTAMPNS_NEW,
                            SO_TIMESTAMPING_OLD};
constexpr std::array of_four{IP_MTU_DISCOVER,    IP_RECVERR,
                             IP_RECVTTL,         IP_RECVTOS,
                             IP_RECVOPTS,        IP_RETOPTS,
                             IP_TRANSPARENT,     IP_RECVORIGDSTADDR,
                             IP_MINTTL,          IP_CHECKSUM,
                             IP_MULTICAST_TTL,   IP_MULTICAST_LOOP,
                             IP_MULTICAST_ALL,   IP_BIND_ADDRESS_NO_PORT,
                             IP_RECVFRAGSIZE,    IP_RECVERR_RFC4884,
                             ip_local_port_range};
constexpr std::array of_six{
    IPV6_UNICAST_HOPS, IPV6_MULTICAST_HOPS, IPV6_MULTICAST_LOOP, IPV6_MULTICAST_ALL,
    IPV6_MTU_DISCOVER, IPV6_RECVERR,        IPV6_RECVHOPLIMIT,   IPV6_RECVTCLASS,
    IPV6_TCLASS,       IPV6_AUTOFLOWLABEL,  IPV6_MINHOPCOUNT,    IPV6_RECVORIGDSTADDR,
    IPV6_TRANSPARENT,  IPV6_DONTFRAG,       IPV6_RECVFRAGSIZE,   IPV6_RECVERR_RFC4884};
constexpr std::array of_tcp{TCP_SYNCNT,
                            TCP_LINGER2,
                            TCP_DEFER_ACCEPT,
                            TCP_USER_TIMEOUT,
                            TCP_NOTSENT_LOWAT,
                            TCP_FASTOPEN,
                            TCP_FASTOPEN_NO_COOKIE,
                            TCP_SAVE_SYN,
                            TCP_THIN_LINEAR_TIMEOUTS,
                            TCP_INQ,
                            tcp_tx_delay};

bool is_tcp(const image::InetSkEntry& entry) {
  return entry.proto() == IPPROTO_TCP && entry.type() == SOCK_STREAM;
}

std::vector<Option> options_of(const image::InetSkEntry& entry) {
  std::vector<Option> options;
  auto add = [&](int level, std::span<const int> names) {
    for (int name : names) options.push_back({level, name});
  };
  add(SOL_SOCKET, of_all);
  if (entry.family() == AF_INET6)
    add(IPPROTO_IPV6, of_six);
  else
    add(IPPROTO_IP, of_four);
  if (!is_tcp(entry)) return options;
  add(IPPROTO_TCP, of_tcp);
  // A connection that is put back is connected to, which this one would put off.
  if (entry.state() == TCP_CLOSE) options.push_back({IPPROTO_TCP, TCP_FASTOPEN_CONNECT});
  return options;
}

std::string name_of(Option option) { return fmt::format("{}/{}", option.level, option.name); }

// Which of them a socket has depends on its kind and the kernel.
std::optional<int> read(int fd, Option option) {
  int value = 0;
  socklen_t size = sizeof value;
  long result = kernel::call(SYS_getsockopt, fd, option.level, option.name, &value, &size);
  if (kernel::lacks_option(result)) return std::nullopt;
  kernel::must(result, "read a socket's option", name_of(option));
  return value;
}

// By a kernel that is another one than at the dump, or allows less.
bool is_refused(long result) {
  return kernel::lacks_option(result) || result == -EINVAL || result == -EPERM;
}

void restore_option(int fd, Option option, int value, Log& log) {
  if (read(fd, option) == value) return;
  long result = kernel::call(SYS_setsockopt, fd, option.level, option.name, &value, sizeof value);
  if (is_refused(result))
    log.warn("A socket's option {} can't be {} again: {}", name_of(option), value,
             strerror(static_cast<int>(-result)));
  else
    kernel::must(result, "set a socket's option", name_of(option));
}

constexpr const char* congestion_option = "a TCP socket's congestion control";

std::string congestion_control(int fd) {
  return kernel::socket_option<std::array<char, 16>>(fd, IPPROTO_TCP, TCP_CONGESTION, "read",
                                                     congestion_option)
      .data();
}

void restore_congestion_control(int fd, const std::string& name, Log& log) {
  if (name.empty() || congestion_control(fd) == name) return;
  long result =
      kernel::call(SYS_setsockopt, fd, IPPROTO_TCP, TCP_CONGESTION, name.data(), name.size());
  if (result == -ENOENT || is_refused(result))
    log.warn(
        "A TCP socket had the congestion control {}, which this kernel doesn't have or allow ({}): "
        "it gets the usual one",
        name, strerror(static_cast<int>(-result)));
  else
    kernel::must(result, "set", congestion_option);
}

}  // namespace

image::SocketOptionsEntry dump_further_options(int fd, const image::InetSkEntry& entry) {
  image::SocketOptionsEntry result;
  result.set_id(entry.id());
  for (Option option : options_of(entry)) {
    auto value = read(fd, option);
    if (!value) continue;
    image::SocketOptionEntry& out = *result.add_options();
    out.set_level(static_cast<uint32_t>(option.level));
    out.set_option(static_cast<uint32_t>(option.name));
    out.set_value(*value);
  }
  if (is_tcp(entry)) result.set_congestion_control(congestion_control(fd));
  return result;
}

void restore_further_options(int fd, const image::InetSkEntry& entry,
                             const image::SocketOptionsEntry& options, Log& log) {
  const std::vector<Option> known = options_of(entry);
  for (const image::SocketOptionEntry& then : options.options()) {
    Option option{static_cast<int>(then.level()), static_cast<int>(then.option())};
    if (std::find(known.begin(), known.end(), option) != known.end())
      restore_option(fd, option, then.value(), log);
  }
  if (is_tcp(entry)) restore_congestion_control(fd, options.congestion_control(), log);
}

}  // namespace stasis::engine::files
