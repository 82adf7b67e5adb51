// Sends numbered packets to a server outside of the container: its path is the argument.
#include <sys/socket.h>
#include <sys/un.h>

#include "program.h"

using namespace program;

int main(int, char** argv) {
  sockaddr_un to{AF_UNIX, {}};
  strncpy(to.sun_path, argv[1], sizeof to.sun_path - 1);
  int fd = socket(AF_UNIX, argv[2] ? SOCK_STREAM : SOCK_DGRAM, 0);
  need(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) == 0, "connect");
  int number = 0;
  serve([&](Verdict& verdict) {
    std::string text = "number " + std::to_string(number++);
    verdict.expect(write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()),
                   "write: %s", strerror(errno));
  });
}
