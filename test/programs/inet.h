// Addresses and sockets for the programs that have any.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstring>
#include <string>

#include "program.h"

namespace program {

struct Address {
  sockaddr_storage storage{};
  socklen_t size = 0;

  Address(const char* text, int port) {
    auto* four = reinterpret_cast<sockaddr_in*>(&storage);
    auto* six = reinterpret_cast<sockaddr_in6*>(&storage);
    if (strchr(text, ':')) {
      six->sin6_family = AF_INET6;
      six->sin6_port = htons(port);
      inet_pton(AF_INET6, text, &six->sin6_addr);
      size = sizeof *six;
    } else {
      four->sin_family = AF_INET;
      four->sin_port = htons(port);
      inet_pton(AF_INET, text, &four->sin_addr);
      size = sizeof *four;
    }
  }
  const sockaddr* raw() const { return reinterpret_cast<const sockaddr*>(&storage); }
  int family() const { return storage.ss_family; }
};

// Of an IPv4 socket: "127.0.0.1:80".
inline std::string name_of(int fd) {
  sockaddr_in name{};
  socklen_t size = sizeof name;
  getsockname(fd, reinterpret_cast<sockaddr*>(&name), &size);
  char text[64];
  inet_ntop(AF_INET, &name.sin_addr, text, sizeof text);
  return text + std::string(":") + std::to_string(ntohs(name.sin_port));
}

inline int listening(int family, const char* address, int port, int backlog) {
  int fd = socket(family, SOCK_STREAM, 0);
  Address at(address, port);
  need(fd >= 0 && bind(fd, at.raw(), at.size) == 0 && listen(fd, backlog) == 0, "listen");
  return fd;
}

inline int datagrams(int family, const char* address, int port) {
  int fd = socket(family, SOCK_DGRAM, 0);
  Address at(address, port);
  need(fd >= 0 && bind(fd, at.raw(), at.size) == 0, "bind");
  return fd;
}

}  // namespace program
