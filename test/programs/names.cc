// A file that has lost the name it is open under, but has another.
#include <sys/stat.h>

#include "program.h"

using namespace program;

int main() {
  int fd = open("/data/first", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  need(fd >= 0 && mkdir("/data/below", 0700) == 0 && link("/data/first", "/data/below/second") == 0,
       "link");
  unlink("/data/first");
  serve([&](Verdict& verdict) {
    struct stat by_name{}, by_descriptor{};
    stat("/data/below/second", &by_name);
    fstat(fd, &by_descriptor);
    verdict.expect(by_name.st_ino == by_descriptor.st_ino && by_name.st_dev == by_descriptor.st_dev,
                   "another file");
    verdict.expect(by_descriptor.st_nlink == 1, "%d names",
                   static_cast<int>(by_descriptor.st_nlink));
  });
}
