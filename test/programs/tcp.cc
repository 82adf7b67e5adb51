// TCP connections whose ends are both here, in every state, with data under
// way in both directions.
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <vector>

#include "inet.h"
#include "program.h"

using namespace program;

namespace {

struct Pair {
  int client = -1, server = -1;
};

Pair connected(int family, const char* address, int listener, int port) {
  Pair pair;
  pair.client = socket(family, SOCK_STREAM, 0);
  Address to(address, port);
  need(connect(pair.client, to.raw(), to.size) == 0, "connect");
  pair.server = accept(listener, nullptr, nullptr);
  need(pair.server >= 0, "accept");
  return pair;
}

int state(int fd) {
  tcp_info info{};
  socklen_t size = sizeof info;
  getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size);
  return info.tcpi_state;
}

std::string take(int fd, size_t bytes) {
  std::string text(bytes, '\0');
  size_t at = 0;
  while (at < bytes) {
    ssize_t n = recv(fd, text.data() + at, bytes - at, 0);
    if (n <= 0) break;
    at += static_cast<size_t>(n);
  }
  text.resize(at);
  return text;
}

void put(int fd, const std::string& text) {
  need(send(fd, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size()),
       "send");
}

std::string much(size_t bytes, uint64_t seed) {
  std::string text(bytes, '\0');
  fill(text.data(), bytes, seed);
  return text;
}

// Sends until nothing more fits.
size_t stuff(int fd, const std::string& text) {
  size_t sent = 0;
  while (sent < text.size()) {
    ssize_t n = send(fd, text.data() + sent, text.size() - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n <= 0) break;
    sent += static_cast<size_t>(n);
  }
  return sent;
}

}  // namespace

// "plain": only what CRIU's images hold, too.
int main(int argc, char** argv) {
  const bool plain = argc > 1 && std::string(argv[1]) == "plain";
  int listener = listening(AF_INET, "127.0.0.1", 8080, 10),
      six = listening(AF_INET6, "::", 8081, 10);
  std::vector<Pair> talking = {connected(AF_INET, "127.0.0.1", listener, 8080),
                               connected(AF_INET6, "::1", six, 8081),
                               connected(AF_INET, "127.0.0.1", six, 8081)};
  int yes = 1;
  setsockopt(talking[0].client, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  unsigned patience = 54321;
  if (!plain) {
    setsockopt(talking[0].client, IPPROTO_TCP, TCP_USER_TIMEOUT, &patience, sizeof patience);
    setsockopt(talking[0].client, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
  }
  Pair waiting = connected(AF_INET, "127.0.0.1", listener, 8080);
  put(waiting.client, "to the server");
  put(waiting.server, "to the client");
  Pair full = connected(AF_INET6, "::1", six, 8081);
  const std::string there = much(8 << 20, 1), back = much(8 << 20, 2);
  size_t stuffed[2] = {stuff(full.client, there), stuff(full.server, back)};
  Pair half = connected(AF_INET, "127.0.0.1", listener, 8080);
  put(half.client, "last words");
  shutdown(half.client, SHUT_WR);  // FIN_WAIT2 and CLOSE_WAIT
  Pair ended = connected(AF_INET6, "::1", six, 8081);
  put(ended.server, "never read until the end");
  shutdown(ended.client, SHUT_WR);
  shutdown(ended.server, SHUT_WR);

  bool first = true;
  std::vector<int> states;
  auto all_states = [&] {
    std::vector<int> now;
    for (const Pair& pair : {waiting, full, half, ended})
      for (int fd : {pair.client, pair.server}) now.push_back(state(fd));
    return now;
  };
  sleep_us(100000);
  states = all_states();
  serve([&](Verdict& verdict) {
    for (const Pair& pair : talking)
      for (int i = 0; i < 3; ++i) {
        put(pair.client, "ping");
        verdict.expect(take(pair.server, 4) == "ping", "no ping");
        put(pair.server, "pong");
        verdict.expect(take(pair.client, 4) == "pong", "no pong");
      }
    unsigned told = 0;
    char congestion[16] = {};
    socklen_t size = sizeof told, length = sizeof congestion;
    getsockopt(talking[0].client, IPPROTO_TCP, TCP_USER_TIMEOUT, &told, &size);
    getsockopt(talking[0].client, IPPROTO_TCP, TCP_CONGESTION, congestion, &length);
    verdict.expect(plain || (told == patience && std::string(congestion) == "reno"),
                   "patience %u, %s", told, congestion);
    Pair fresh = connected(AF_INET, "127.0.0.1", listener, 8080);
    put(fresh.client, "new");
    verdict.expect(take(fresh.server, 3) == "new", "no new connection");
    close(fresh.client);
    close(fresh.server);
    if (!first) return;
    auto now = all_states();
    for (size_t i = 0; i < now.size(); ++i)
      verdict.expect(now[i] == states[i], "end %zu is in state %d, not %d", i, now[i], states[i]);
    if (access("/data/last", F_OK) != 0) return;
    first = false;
    verdict.expect(take(waiting.server, 13) == "to the server", "data to the server");
    verdict.expect(take(waiting.client, 13) == "to the client", "data to the client");
    verdict.expect(take(half.server, 11) == "last words", "data before the end");
    put(half.server, "answer");
    close(half.server);
    verdict.expect(take(half.client, 10) == "answer", "the half that was open");
    verdict.expect(take(ended.client, 100) == "never read until the end", "data of an ended one");
    verdict.expect(take(ended.server, 1).empty(), "no end");
    std::string got = take(full.server, stuffed[0]);
    verdict.expect(got == there.substr(0, stuffed[0]), "%zu bytes of %zu", got.size(), stuffed[0]);
    got = take(full.client, stuffed[1]);
    verdict.expect(got == back.substr(0, stuffed[1]), "%zu bytes of %zu", got.size(), stuffed[1]);
  });
}
