#include "engine/files/further_options.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <array>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "kernel/call.h"

namespace stasis::engine::files {

namespace {

struct Option {
  int level, name;
};

// Newer than the headers of the oldest system that we are built on.
constexpr int ip_local_port_range = 51, tcp_tx_delay = 37;

// Numbers that mean the same when they are set as when they are read, and are the program's choice
// alone. No other is set, whatever an image says.
constexpr std::array of_all{
    Option{SOL_SOCKET, SO_RXQ_OVFL},         Option{SOL_SOCKET, SO_PEEK_OFF},
    Option{SOL_SOCKET, SO_BUSY_POLL},        Option{SOL_SOCKET, SO_ZEROCOPY},
    Option{SOL_SOCKET, SO_SELECT_ERR_QUEUE}, Option{SOL_SOCKET, SO_TIMESTAMP_OLD},
    Option{SOL_SOCKET, SO_TIMESTAMPNS_OLD},  Option{SOL_SOCKET, SO_TIMESTAMP_NEW},
    Option{SOL_SOCKET, SO_TIMESTAMPNS_NEW},  Option{SOL_SOCKET, SO_TIMESTAMPING_OLD},
};
constexpr std::array of_four{
    Option{IPPROTO_IP, IP_MTU_DISCOVER},     Option{IPPROTO_IP, IP_RECVERR},
    Option{IPPROTO_IP, IP_RECVTTL},          Option{IPPROTO_IP, IP_RECVTOS},
    Option{IPPROTO_IP, IP_RECVOPTS},         Option{IPPROTO_IP, IP_RETOPTS},
    Option{IPPROTO_IP, IP_TRANSPARENT},      Option{IPPROTO_IP, IP_RECVORIGDSTADDR},
    Option{IPPROTO_IP, IP_MINTTL},           Option{IPPROTO_IP, IP_CHECKSUM},
    Option{IPPROTO_IP, IP_MULTICAST_TTL},    Option{IPPROTO_IP, IP_MULTICAST_LOOP},
    Option{IPPROTO_IP, IP_MULTICAST_ALL},    Option{IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT},
    Option{IPPROTO_IP, IP_RECVFRAGSIZE},     Option{IPPROTO_IP, IP_RECVERR_RFC4884},
    Option{IPPROTO_IP, ip_local_port_range},
};
constexpr std::array of_six{
    Option{IPPROTO_IPV6, IPV6_UNICAST_HOPS},   Option{IPPROTO_IPV6, IPV6_MULTICAST_HOPS},
    Option{IPPROTO_IPV6, IPV6_MULTICAST_LOOP}, Option{IPPROTO_IPV6, IPV6_MULTICAST_ALL},
    Option{IPPROTO_IPV6, IPV6_MTU_DISCOVER},   Option{IPPROTO_IPV6, IPV6_RECVERR},
    Option{IPPROTO_IPV6, IPV6_RECVHOPLIMIT},   Option{IPPROTO_IPV6, IPV6_RECVTCLASS},
    Option{IPPROTO_IPV6, IPV6_TCLASS},         Option{IPPROTO_IPV6, IPV6_AUTOFLOWLABEL},
    Option{IPPROTO_IPV6, IPV6_MINHOPCOUNT},    Option{IPPROTO_IPV6, IPV6_RECVORIGDSTADDR},
    Option{IPPROTO_IPV6, IPV6_TRANSPARENT},    Option{IPPROTO_IPV6, IPV6_DONTFRAG},
    Option{IPPROTO_IPV6, IPV6_RECVFRAGSIZE},   Option{IPPROTO_IPV6, IPV6_RECVERR_RFC4884},
};
constexpr std::array of_tcp{
    Option{IPPROTO_TCP, TCP_SYNCNT},
    Option{IPPROTO_TCP, TCP_LINGER2},
    Option{IPPROTO_TCP, TCP_DEFER_ACCEPT},
    Option{IPPROTO_TCP, TCP_USER_TIMEOUT},
    Option{IPPROTO_TCP, TCP_NOTSENT_LOWAT},
    Option{IPPROTO_TCP, TCP_FASTOPEN},
    Option{IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE},
    Option{IPPROTO_TCP, TCP_SAVE_SYN},
    Option{IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS},
    Option{IPPROTO_TCP, TCP_INQ},
    Option{IPPROTO_TCP, tcp_tx_delay},
};

bool is_tcp(const image::InetSkEntry& entry) {
  return entry.proto() == IPPROTO_TCP && entry.type() == SOCK_STREAM;
}

std::vector<Option> options_of(const image::InetSkEntry& entry) {
  std::vector<Option> all(of_all.begin(), of_all.end());
  if (entry.family() == AF_INET6)
    all.insert(all.end(), of_six.begin(), of_six.end());
  else
    all.insert(all.end(), of_four.begin(), of_four.end());
  if (is_tcp(entry)) all.insert(all.end(), of_tcp.begin(), of_tcp.end());
  // A connection that is put back is connected to, which this one would put off.
  if (is_tcp(entry) && entry.state() == TCP_CLOSE)
    all.push_back({IPPROTO_TCP, TCP_FASTOPEN_CONNECT});
  return all;
}

// Which of them a socket has depends on its kind and the kernel.
std::optional<int> read(int fd, Option option) {
  int value = 0;
  socklen_t size = sizeof value;
  if (kernel::call(SYS_getsockopt, fd, option.level, option.name, &value, &size) < 0)
    return std::nullopt;
  return value;
}

std::string congestion_control(int fd) {
  std::array<char, 17> name{};
  socklen_t size = name.size() - 1;
  if (kernel::call(SYS_getsockopt, fd, IPPROTO_TCP, TCP_CONGESTION, name.data(), &size) < 0)
    return {};
  return name.data();
}

void restore_congestion_control(int fd, const std::string& name, Log& log) {
  if (name.empty() || congestion_control(fd) == name) return;
  long result =
      kernel::call(SYS_setsockopt, fd, IPPROTO_TCP, TCP_CONGESTION, name.data(), name.size());
  if (result < 0)
    log.warn(
        "A TCP socket had the congestion control {}, which this kernel doesn't have ({}): it gets "
        "the usual one",
        name, strerror(static_cast<int>(-result)));
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
  for (Option option : options_of(entry))
    for (const image::SocketOptionEntry& then : options.options()) {
      if (static_cast<int>(then.level()) != option.level ||
          static_cast<int>(then.option()) != option.name)
        continue;
      int value = then.value();
      if (read(fd, option) == value) break;
      long result =
          kernel::call(SYS_setsockopt, fd, option.level, option.name, &value, sizeof value);
      if (result < 0)
        log.warn("A socket's option {} of level {} can't be {} again: {}", option.name,
                 option.level, value, strerror(static_cast<int>(-result)));
      break;
    }
  if (is_tcp(entry)) restore_congestion_control(fd, options.congestion_control(), log);
}

}  // namespace stasis::engine::files
