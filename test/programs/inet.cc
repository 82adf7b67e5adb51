// Internet sockets without connections: listening, bound, fresh, UDP with and
// without a peer, over IPv4 and IPv6, with their options.
#include "inet.h"

#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <vector>

#include "program.h"

using namespace program;

namespace {

struct Option {
  int fd, level, name, value;
};

int get(int fd, int level, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  return getsockopt(fd, level, name, &value, &size) == 0 ? value : -2;
}

std::vector<Option> options;
void set(int fd, int level, int name, int value) {
  need(setsockopt(fd, level, name, &value, sizeof value) == 0, "setsockopt");
  options.push_back({fd, level, name, get(fd, level, name)});
}

// Only datagrams of five bytes pass.
void filter(int fd) {
  sock_filter program[] = {{BPF_LD | BPF_W | BPF_LEN, 0, 0, 0},
                           {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 8 + 5},
                           {BPF_RET | BPF_K, 0, 0, 0xffff},
                           {BPF_RET | BPF_K, 0, 0, 0}};
  sock_fprog whole{4, program};
  need(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &whole, sizeof whole) == 0, "filter");
}

bool serves(int listener, const Address& to) {
  int client = socket(to.family(), SOCK_STREAM, 0);
  if (connect(client, to.raw(), to.size) != 0) return false;
  int server = accept(listener, nullptr, nullptr);
  char byte = 'x', got = 0;
  bool good =
      server >= 0 && write(client, &byte, 1) == 1 && read(server, &got, 1) == 1 && got == 'x';
  close(client);
  close(server);
  return good;
}

bool passes(int from, int to, const std::string& text) {
  char got[64] = {};
  return send(from, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()) &&
         recv(to, got, sizeof got, MSG_DONTWAIT) == static_cast<ssize_t>(text.size()) &&
         text == std::string(got, text.size());
}

// What has no place in CRIU's images.
struct Sockets {
  int fresh, both, listening, bound, server, server6;
};
void set_further(const Sockets& all) {
  for (int fd : {all.fresh, all.both}) {
    set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 12345);
    set(fd, IPPROTO_TCP, TCP_SYNCNT, 3);
    set(fd, IPPROTO_TCP, TCP_LINGER2, 7);
    set(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 8192);
  }
  set(all.both, IPPROTO_TCP, TCP_FASTOPEN, 5);
  set(all.listening, IPPROTO_TCP, TCP_DEFER_ACCEPT, 7);
  set(all.bound, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
  for (int option : {IP_RECVERR, IP_RECVTTL, IP_RECVTOS}) set(all.server, IPPROTO_IP, option, 1);
  set(all.server, IPPROTO_IP, IP_MULTICAST_TTL, 9);
  set(all.server, SOL_SOCKET, SO_TIMESTAMP, 1);
  set(all.server6, SOL_SOCKET, SO_TIMESTAMPNS, 1);
  set(all.server6, SOL_SOCKET, SO_RXQ_OVFL, 1);
  set(all.server6, IPPROTO_IPV6, IPV6_TCLASS, 0x28);
  set(all.server6, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 21);
  set(all.server6, IPPROTO_IPV6, IPV6_RECVERR, 1);
  need(setsockopt(all.fresh, IPPROTO_TCP, TCP_CONGESTION, "reno", 4) == 0, "reno");
}

}  // namespace

// "plain": only what CRIU's images hold, too.
int main(int argc, char** argv) {
  const bool plain = argc > 1 && std::string(argv[1]) == "plain";
  int four = listening(AF_INET, "127.0.0.1", 8080, 7), six = listening(AF_INET6, "::1", 8081, 7);
  int both = listening(AF_INET6, "::", 8082, 7);  // IPv4, too
  int many[2];
  for (int& one : many) {
    one = socket(AF_INET, SOCK_STREAM, 0);
    set(one, SOL_SOCKET, SO_REUSEPORT, 1);
    need(bind(one, Address("127.0.0.1", 8083).raw(), 16) == 0 && listen(one, 3) == 0, "reuseport");
  }
  int fresh = socket(AF_INET6, SOCK_STREAM, 0), bound = socket(AF_INET, SOCK_STREAM, 0);
  need(bind(bound, Address("127.0.0.1", 8084).raw(), 16) == 0, "bind");
  int foreign = socket(AF_INET, SOCK_STREAM, 0);
  set(foreign, IPPROTO_IP, IP_FREEBIND, 1);
  need(bind(foreign, Address("10.99.98.97", 8085).raw(), 16) == 0, "freebind");

  int server = datagrams(AF_INET, "127.0.0.1", 9000),
      client = datagrams(AF_INET, "127.0.0.1", 9001);
  need(connect(client, Address("127.0.0.1", 9000).raw(), 16) == 0, "connect");
  int server6 = datagrams(AF_INET6, "::1", 9002), client6 = socket(AF_INET6, SOCK_DGRAM, 0);
  need(connect(client6, Address("::1", 9002).raw(), sizeof(sockaddr_in6)) == 0, "connect");
  int mute = datagrams(AF_INET, "127.0.0.1", 9003);
  need(connect(mute, Address("127.0.0.1", 9000).raw(), 16) == 0 && shutdown(mute, SHUT_WR) == 0,
       "shutdown");
  filter(server6);

  set(four, SOL_SOCKET, SO_KEEPALIVE, 1);
  set(four, SOL_SOCKET, SO_RCVBUF, 100000);
  set(four, IPPROTO_TCP, TCP_NODELAY, 1);
  set(fresh, IPPROTO_IPV6, IPV6_V6ONLY, 1);
  set(fresh, IPPROTO_TCP, TCP_KEEPIDLE, 77);
  set(fresh, IPPROTO_TCP, TCP_KEEPINTVL, 7);
  set(fresh, IPPROTO_TCP, TCP_KEEPCNT, 3);
  set(bound, IPPROTO_IP, IP_TOS, 0x10);
  set(bound, IPPROTO_IP, IP_TTL, 33);
  set(server, IPPROTO_IP, IP_PKTINFO, 1);
  set(server, SOL_SOCKET, SO_BROADCAST, 1);
  set(server6, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
  if (!plain) set_further({fresh, both, many[0], bound, server, server6});
  for (int fd : {both, fresh, client, server6})
    for (int name : {SO_RCVBUF, SO_SNDBUF, SO_REUSEADDR, SO_REUSEPORT})
      options.push_back({fd, SOL_SOCKET, name, get(fd, SOL_SOCKET, name)});

  serve([&](Verdict& verdict) {
    for (const Option& option : options)
      verdict.expect(get(option.fd, option.level, option.name) == option.value,
                     "option %d/%d of %d is %d, not %d", option.level, option.name, option.fd,
                     get(option.fd, option.level, option.name), option.value);
    char congestion[16] = {};
    socklen_t length = sizeof congestion;
    verdict.expect(
        plain || (getsockopt(fresh, IPPROTO_TCP, TCP_CONGESTION, congestion, &length) == 0 &&
                  std::string(congestion) == "reno"),
        "congestion control %s", congestion);
    verdict.expect(serves(four, Address("127.0.0.1", 8080)), "IPv4 doesn't serve");
    verdict.expect(serves(six, Address("::1", 8081)), "IPv6 doesn't serve");
    verdict.expect(serves(both, Address("127.0.0.1", 8082)), "IPv4 by IPv6 doesn't serve");
    verdict.expect(serves(both, Address("::1", 8082)), "any IPv6 doesn't serve");
    verdict.expect(name_of(bound) == "127.0.0.1:8084", "bound to %s", name_of(bound).c_str());
    verdict.expect(name_of(foreign) == "10.99.98.97:8085", "free: %s", name_of(foreign).c_str());
    for (int one : many)
      verdict.expect(name_of(one) == "127.0.0.1:8083", "port: %s", name_of(one).c_str());
    verdict.expect(passes(client, server, "over IPv4"), "UDP over IPv4");
    verdict.expect(passes(client6, server6, "five."), "UDP over IPv6");
    verdict.expect(!passes(client6, server6, "filtered"), "the filter is gone");
    verdict.expect(send(mute, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE, "it isn't shut down");
  });
}
