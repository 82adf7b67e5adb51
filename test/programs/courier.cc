// A producer that sends numbered datagrams, each with the end of a pipe or with a
// memory file that holds the same number, and a consumer that is slower: there are always some
// under way. None may be lost, doubled or out of order.
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "program.h"

using namespace program;

namespace {

constexpr const char* server_path = "/tmp/courier";

sockaddr_un address() {
  sockaddr_un result{AF_UNIX, {}};
  strcpy(result.sun_path, server_path);
  return result;
}

struct Parcel {
  uint64_t number = 0;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  iovec vector{&number, sizeof number};
  msghdr message{nullptr, 0, &vector, 1, control, sizeof control, 0};
};

[[noreturn]] void produce() {
  int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
  sockaddr_un to = address();
  while (connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) sleep_us(1000);
  for (uint64_t number = 0;; ++number) {
    int ends[2];
    if (number % 2 == 0) {
      if (pipe(ends) != 0 || write(ends[1], &number, sizeof number) != sizeof number) _exit(1);
    } else {
      ends[0] = memfd_create("parcel", 0);
      ends[1] = dup(ends[0]);
      if (pwrite(ends[1], &number, sizeof number, 0) != sizeof number) _exit(1);
    }
    Parcel parcel;
    parcel.number = number;
    cmsghdr* part = CMSG_FIRSTHDR(&parcel.message);
    *part = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(part), &ends[0], sizeof(int));
    while (sendmsg(fd, &parcel.message, 0) < 0)
      if (errno != EINTR) _exit(2);
    close(ends[0]);
    close(ends[1]);
  }
}

}  // namespace

int main() {
  int server = socket(AF_UNIX, SOCK_DGRAM, 0);
  sockaddr_un at = address();
  need(bind(server, reinterpret_cast<sockaddr*>(&at), sizeof at) == 0, "bind");
  pid_t producer = fork();
  if (producer == 0) produce();
  uint64_t expected = 0;
  std::string wrong;
  auto receive = [&] {
    Parcel parcel;
    if (recvmsg(server, &parcel.message, 0) < 0) return;
    cmsghdr* part = CMSG_FIRSTHDR(&parcel.message);
    uint64_t enclosed = 0;
    int fd = -1;
    if (part) memcpy(&fd, CMSG_DATA(part), sizeof fd);
    if (parcel.number != expected) wrong = "number " + std::to_string(parcel.number);
    if (read(fd, &enclosed, sizeof enclosed) != sizeof enclosed || enclosed != expected)
      wrong = "what came with " + std::to_string(expected);
    close(fd);
    ++expected;
  };
  while (expected < 10) receive();
  serve(
      [&](Verdict& verdict) {
        verdict.expect(wrong.empty(), "%s", wrong.c_str());
        verdict.expect(kill(producer, 0) == 0, "the producer is gone");
      },
      [&] {
        sleep_us(1000);
        receive();
      });
}
