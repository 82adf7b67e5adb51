// Unix sockets.
#include <linux/kcmp.h>
#include <linux/rtnetlink.h>
#include <linux/unix_diag.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <cstring>

#include "engine/files/obstacles.h"
#include "engine/files/test_support.h"
#include "engine/files/unix_diag.h"

namespace stasis::engine::files {

namespace {

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{AF_UNIX, {}};
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  return address;
}

int bound_socket(int type, const std::string& path) {
  sockaddr_un address = address_of(path);
  int fd = socket(AF_UNIX, type, 0);
  (void)!bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address);
  return fd;
}

void pass(int by, const char* text, int fd) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
  iovec vector{const_cast<char*>(text), strlen(text)};
  msghdr message{nullptr, 0, &vector, 1, control, sizeof control, 0};
  cmsghdr* part = CMSG_FIRSTHDR(&message);
  *part = {CMSG_LEN(sizeof fd), SOL_SOCKET, SCM_RIGHTS};
  memcpy(CMSG_DATA(part), &fd, sizeof fd);
  (void)!sendmsg(by, &message, 0);
}

struct Received {
  std::string text;
  int fd = -1;
};

Received received(int by, size_t most) {
  Received result;
  result.text.resize(most);
  alignas(cmsghdr) char control[100];
  iovec vector{result.text.data(), most};
  msghdr message{nullptr, 0, &vector, 1, control, sizeof control, 0};
  long size = recvmsg(by, &message, MSG_DONTWAIT);
  result.text.resize(size < 0 ? 0 : static_cast<size_t>(size));
  if (cmsghdr* part = CMSG_FIRSTHDR(&message)) memcpy(&result.fd, CMSG_DATA(part), sizeof(int));
  return result;
}

}  // namespace

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

TEST_CASE("files come back with the bytes that they travel with") {
  if (!may_examine()) return;
  Child child([] {
    int fds[2], ends[2];
    (void)!socketpair(AF_UNIX, SOCK_STREAM, 0, fds);  // 0, 1
    (void)!pipe(ends);
    (void)!write(ends[1], "piped", 5);
    (void)!write(1, "head", 4);
    pass(1, "body", ends[0]);
    (void)!write(1, "tail", 4);
    pass(0, "self", 0);
    close(ends[0]);
    close(ends[1]);
  });
  Written written({child.pid()});
  Again again(written.checkpoint);
  CHECK(received(again[0], 4).text == "head");
  Received body = received(again[0], 100);
  CHECK(body.text == "body");
  REQUIRE(body.fd >= 0);
  CHECK(read_some(body.fd) == "piped");
  CHECK(read_some(again[0]) == "tail");
  Received self = received(again[1], 100);
  REQUIRE(self.fd >= 0);
  CHECK(syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, self.fd, again[0]) == 0);
  close(body.fd);
  close(self.fd);
}

TEST_CASE("unix sockets outside of the container are named") {
  if (!may_examine()) return;
  int outside[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, outside) == 0);
  REQUIRE(dup2(outside[1], 1010) == 1010);
  {
    Child child([] { dup2(1010, 0); });
    CHECK_THROWS_WITH(Written({child.pid()}), Catch::Contains("outside of the container"));
    DumpPlan plan;
    plan.root = child.pid();
    plan.mounts = mountmap::MountTable::read(plan.root);
    auto findings = obstacles({child.pid()}, plan);
    REQUIRE(findings.size() == 1);
    CHECK_THAT(findings[0].what, Catch::Contains("a socket without a name of process"));
    struct stat stat{};
    REQUIRE(fstat(outside[1], &stat) == 0);
    plan.external_unix.insert(static_cast<uint32_t>(stat.st_ino));
    CHECK(obstacles({child.pid()}, plan).empty());
  }
  for (int fd : {outside[0], outside[1], 1010}) close(fd);
}

TEST_CASE("a server outside of the container is connected again where that is allowed") {
  if (!may_examine()) return;
  Scratch dir;
  std::string path = dir / "log";
  UniqueFd server(bound_socket(SOCK_DGRAM, path));
  Child child([&] {
    sockaddr_un address = address_of(path);
    socket(AF_UNIX, SOCK_DGRAM, 0);
    (void)!connect(0, reinterpret_cast<sockaddr*>(&address), sizeof address);
  });
  CHECK_THROWS_WITH(Written({child.pid()}), Catch::Contains(path));
  Written written({child.pid()}, {}, [](DumpPlan& plan) { plan.ext_unix_sk = true; });
  CHECK_THROWS_WITH(Again(written.checkpoint), Catch::Contains(path));
  RestorePlan plan;
  plan.ext_unix_sk = true;
  Again again(written.checkpoint, plan);
  REQUIRE(write(again[0], "logged", 6) == 6);
  CHECK(read_some(server.get()) == "logged");
}

TEST_CASE("the file of a socket comes back as it was") {
  if (!may_examine()) return;
  Scratch dir;
  std::string path = dir / "socket";
  {
    Child child([&] {
      bound_socket(SOCK_STREAM, path);  // 0
      chmod(path.c_str(), 0640);
      listen(0, 5);
    });
    Written written({child.pid()});
    Again again(written.checkpoint);
    struct stat stat{};
    REQUIRE(::stat(path.c_str(), &stat) == 0);
    CHECK(stat.st_mode == (S_IFSOCK | 0640));
    UniqueFd client(socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address = address_of(path);
    CHECK(connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    UniqueFd accepted(accept(again[0], nullptr, nullptr));
    CHECK(accepted.valid());
  }
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
