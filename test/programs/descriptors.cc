// Very many open files: pipes, each with its number in it, and a descriptor as
// high as the limit allows. descriptors PIPES
#include <sys/resource.h>

#include <vector>

#include "program.h"

using namespace program;

int main(int argc, char** argv) {
  size_t count = argc > 1 ? static_cast<size_t>(atoi(argv[1])) : 100;
  rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  need(setrlimit(RLIMIT_NOFILE, &limit) == 0, "setrlimit");
  const int far = static_cast<int>(limit.rlim_max) - 10;
  std::vector<int> readers, writers;
  for (size_t i = 0; i < count; i++) {
    int ends[2];
    need(pipe2(ends, O_NONBLOCK) == 0, "pipe2");
    need(write(ends[1], &i, sizeof i) == sizeof i, "write");
    readers.push_back(ends[0]);
    writers.push_back(ends[1]);
  }
  need(dup2(readers.back(), far) == far, "dup2");
  close(readers.back());
  readers.back() = far;
  serve([&](Verdict& verdict) {
    for (size_t i = 0; i < count; i++) {
      size_t number = count;
      verdict.expect(read(readers[i], &number, sizeof number) == sizeof number, "pipe %zu: %s", i,
                     strerror(errno));
      verdict.expect(number == i, "pipe %zu holds %zu", i, number);
      verdict.expect(write(writers[i], &i, sizeof i) == sizeof i, "pipe %zu is not writable", i);
    }
  });
}
