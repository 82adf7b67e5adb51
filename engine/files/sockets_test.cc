// Unix sockets.
#include <linux/rtnetlink.h>
#include <linux/unix_diag.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>

#include "engine/files/obstacles.h"
#include "engine/files/test_support.h"
#include "engine/files/unix_diag.h"

namespace stasis::engine::files {

TEST_CASE("pairs of unix sockets come back with what waits in them") {
  if (!may_examine()) return;
  Child child([] {
    int fds[2];
    (void)!socketpair(AF_UNIX, SOCK_STREAM, 0, fds);                     // 0, 1
    (void)!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, fds);  // 2, 3
    (void)!socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, fds);       // 4, 5
    (void)!socketpair(AF_UNIX, SOCK_STREAM, 0, fds);                     // 6, 7
    socket(AF_UNIX, SOCK_STREAM, 0);                                     // 8
    (void)!socketpair(AF_UNIX, SOCK_STREAM, 0, fds);                     // 9, 10
    int size = 50000;
    setsockopt(0, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    for (const char* text : {"one", "three"})
      for (int fd : {1, 3, 5}) (void)!write(fd, text, strlen(text));
    (void)!write(0, "back", 4);
    (void)!write(7, "last words", 10);
    close(7);
    shutdown(9, SHUT_WR);
  });
  Written written({child.pid()});
  Again again(written.checkpoint);
  for (int number : {0, 1, 2, 3, 4, 5, 6, 8}) check_same(child, again, number);
  CHECK(read_some(again[0]) == "onethree");
  CHECK(read_some(again[1]) == "back");
  CHECK(read_some(again[2]) == "one");
  CHECK(read_some(again[2]) == "three");
  CHECK(read_some(again[4]) == "one");
  CHECK(read_some(again[4]) == "three");
  CHECK(read_some(again[6]) == "last words");
  CHECK(read_some(again[6]).empty());
  CHECK(read_some(again[10]).empty());
  REQUIRE(write(again[10], "yes", 3) == 3);
  CHECK(read_some(again[9]) == "yes");
  int size = 0;
  socklen_t length = sizeof size;
  REQUIRE(getsockopt(again[0], SOL_SOCKET, SO_SNDBUF, &size, &length) == 0);
  CHECK(size == 100000);
  UniqueFd theirs = kernel::pidfd_getfd(kernel::pidfd_open(child.pid()).get(), 4);
  CHECK(read_some(theirs.get()) == "one");  // nothing was taken out
}

TEST_CASE("unix sockets that others can reach are refused") {
  if (!may_examine()) return;
  int outside[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, outside) == 0);
  REQUIRE(dup2(outside[1], 1010) == 1010);
  {
    Child child([] { dup2(1010, 0); });
    CHECK_THROWS_WITH(Written({child.pid()}), Catch::Contains("outside of the container"));
  }
  for (int fd : {outside[0], outside[1], 1010}) close(fd);
  Child child([] {
    sockaddr_un address{AF_UNIX, {}};
    memcpy(address.sun_path + 1, "files_test", 10);
    socket(AF_UNIX, SOCK_STREAM, 0);
    (void)!bind(0, reinterpret_cast<sockaddr*>(&address), sizeof(sa_family_t) + 11);
    socket(AF_UNIX, SOCK_STREAM, 0);
    (void)!bind(1, reinterpret_cast<sockaddr*>(&address), sizeof(sa_family_t));
    listen(1, 1);
  });
  DumpPlan plan;
  plan.root = child.pid();
  auto findings = obstacles(child.pid(), plan);
  REQUIRE(findings.size() == 2);
  CHECK(findings[0].what ==
        "holds a unix socket open as descriptor 0, bound to the name @files_test");
  CHECK(findings[1].what ==
        "holds a unix socket open as descriptor 1, that listens for connections");
}

TEST_CASE("the kernel's words about a unix socket are read, and only whole ones") {
  struct {
    unix_diag_msg head;
    rtattr peer_head;
    uint32_t peer;
    rtattr shutdown_head;
    uint8_t shutdown[4];
    rtattr name_head;
    char name[8];
  } message{};
  message.head.udiag_type = SOCK_SEQPACKET;
  message.head.udiag_state = 1;
  message.head.udiag_ino = 4711;
  message.peer_head = {sizeof(rtattr) + 4, UNIX_DIAG_PEER};
  message.peer = 4712;
  message.shutdown_head = {sizeof(rtattr) + 1, UNIX_DIAG_SHUTDOWN};
  message.shutdown[0] = 2;
  message.name_head = {sizeof(rtattr) + 5, UNIX_DIAG_NAME};
  memcpy(message.name, "/sock", 5);
  std::string_view bytes(reinterpret_cast<const char*>(&message), sizeof message);
  UnixSocket socket = parse_unix_socket(bytes);
  CHECK(socket.inode == 4711);
  CHECK(socket.type == SOCK_SEQPACKET);
  CHECK(socket.peer == 4712);
  CHECK(socket.shutdown == 2);
  CHECK(socket.name == "/sock");
  CHECK_THROWS_AS(parse_unix_socket(bytes.substr(0, 10)), Error);
  CHECK_THROWS_AS(parse_unix_socket(bytes.substr(0, sizeof message.head + 6)), Error);
  message.name_head.rta_len = 2;
  CHECK_THROWS_AS(parse_unix_socket(bytes), Error);
}

}  // namespace stasis::engine::files
