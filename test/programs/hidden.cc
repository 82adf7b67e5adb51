// hidden: holds files of a tmpfs at /tmp/under - open, mapped, as its working
// directory - and then lets the test mount others over them. Verifies that all
// of them are what they were.
#include <sys/mman.h>

#include "program.h"

using namespace program;

namespace {

constexpr char text[] = "what lies beneath\n";

bool shows(int fd, const char* wanted) {
  char buffer[64] = {};
  return pread(fd, buffer, sizeof buffer - 1, 0) >= 0 && strcmp(buffer, wanted) == 0;
}

}  // namespace

int main() {
  need(mkdir("/tmp/under", 0755) == 0 && mkdir("/tmp/under/dir", 0755) == 0, "mkdir");
  int file = open("/tmp/under/file", O_RDWR | O_CREAT | O_EXCL, 0644);
  need(file >= 0 && write(file, text, sizeof text - 1) == sizeof text - 1, "a file");
  need(ftruncate(file, 4096) == 0, "ftruncate");
  int again = open("/tmp/under/file", O_RDONLY);
  int directory = open("/tmp/under/dir", O_RDONLY | O_DIRECTORY);
  int deep = openat(directory, "deep", O_RDWR | O_CREAT | O_APPEND, 0600);
  need(again >= 0 && deep >= 0 && write(deep, "x", 1) == 1, "a file in a directory");
  auto* mapped =
      static_cast<char*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
  need(mapped != MAP_FAILED, "mmap");
  need(chdir("/tmp/under/dir") == 0, "chdir");
  uint64_t rounds = 0;
  serve([&](Verdict& verdict) {
    verdict.expect(shows(file, text) && shows(again, text), "the file shows something else");
    verdict.expect(memcmp(mapped, text, sizeof text - 1) == 0, "the mapping shows something else");
    verdict.expect(faccessat(AT_FDCWD, "deep", R_OK, 0) == 0, "the working directory is another");
    verdict.expect(faccessat(directory, "deep", R_OK, 0) == 0, "the open directory is another");
    // One file behind the descriptor and the mapping still.
    mapped[100] = static_cast<char>('a' + ++rounds % 26);
    char byte = 0;
    verdict.expect(pread(file, &byte, 1, 100) == 1 && byte == mapped[100],
                   "the mapping is of another file: %s", strerror(errno));
    mapped[100] = 0;
    verdict.expect(write(deep, "y", 1) == 1, "appending: %s", strerror(errno));
    if (access("/tmp/under/file", F_OK) == 0)
      verdict.expect(false, "nothing hides the file, so nothing was tested");
  });
}
