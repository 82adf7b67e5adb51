// Pipes in every state: with content, full, empty, of another size,
// non-blocking, with one end closed, shared by processes.
#include <sys/mman.h>
#include <sys/wait.h>

#include <vector>

#include "program.h"

using namespace program;

namespace {

struct Pipe {
  int in = -1, out = -1;
  explicit Pipe(int flags = 0) {
    int ends[2];
    need(pipe2(ends, flags) == 0, "pipe2");
    out = ends[0];
    in = ends[1];
  }
};

std::string take(int fd, size_t n) {
  std::string text(n, '\0');
  ssize_t got = read(fd, text.data(), n);
  text.resize(got > 0 ? got : 0);
  return text;
}

void put(int fd, const std::string& text) {
  need(write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()), "write");
}

}  // namespace

int main() {
  Pipe some, full(O_NONBLOCK), sized, finished, broken, to, from;
  put(some.in, "three words here");
  std::string much(65536, 'f');
  for (size_t i = 0; i < much.size(); i++) much[i] = static_cast<char>('a' + i % 23);
  put(full.in, much);
  need(fcntl(sized.in, F_SETPIPE_SZ, 262144) == 262144, "F_SETPIPE_SZ");
  put(sized.in, much + much);
  put(finished.in, "last words");
  close(finished.in);
  close(broken.out);
  signal(SIGPIPE, SIG_IGN);
  if (fork() == 0) {  // sends back what it gets
    close(to.in);
    for (std::string text; !(text = take(to.out, 100)).empty();) put(from.in, "<" + text + ">");
    _exit(0);
  }
  bool first = true;
  serve([&](Verdict& verdict) {
    put(to.in, "hello");
    verdict.expect(take(from.out, 100) == "<hello>", "the child doesn't answer");
    if (!first) return;
    first = false;
    verdict.expect(take(some.out, 100) == "three words here", "content");
    verdict.expect(write(full.in, "x", 1) == -1 && errno == EAGAIN, "the full pipe isn't full");
    verdict.expect(take(full.out, 70000) == much, "content of the full pipe");
    verdict.expect(write(full.in, "x", 1) == 1, "the emptied pipe takes nothing");
    verdict.expect(fcntl(sized.out, F_GETPIPE_SZ) == 262144, "size");
    std::string back;
    while (back.size() < 131072) {
      std::string part = take(sized.out, 131072 - back.size());
      if (part.empty()) break;
      back += part;
    }
    verdict.expect(back == much + much, "content of the large pipe");
    verdict.expect(take(finished.out, 100) == "last words", "content before the end");
    verdict.expect(take(finished.out, 100).empty(), "no end of file");
    verdict.expect(write(broken.in, "x", 1) == -1 && errno == EPIPE, "no EPIPE");
  });
}
