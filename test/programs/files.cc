// Open files: offsets, flags, descriptors that share one open file (by dup and
// by fork), directories, devices, a deleted file that lives on.
#include <dirent.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>

#include <atomic>

#include "program.h"

using namespace program;

int main() {
  int file = open("/data/file", O_RDWR | O_CREAT | O_TRUNC, 0640);
  need(file >= 0 && write(file, "0123456789", 10) == 10, "/data/file");
  need(lseek(file, 4, SEEK_SET) == 4, "lseek");
  int twin = dup(file);                        // shares the offset
  int far = fcntl(file, F_DUPFD_CLOEXEC, 77);  // likewise, closed at exec
  int other = open("/data/file", O_RDONLY);    // has its own
  int append = open("/data/file", O_WRONLY | O_APPEND | O_NONBLOCK | O_CLOEXEC);
  int directory = open("/data", O_RDONLY | O_DIRECTORY);
  int path = open("/data/file", O_PATH);
  int zero = open("/dev/zero", O_RDONLY), null = open("/dev/null", O_WRONLY);
  int proc = open("/proc/self/status", O_RDONLY);
  int in_tmp = open("/tmp/in-tmpfs", O_RDWR | O_CREAT, 0600);
  need(twin >= 0 && far == 77 && other >= 0 && append >= 0 && directory >= 0, "files");
  need(path >= 0 && zero >= 0 && null >= 0 && proc >= 0 && in_tmp >= 0, "devices");
  need(write(in_tmp, "tmpfs", 5) == 5, "/tmp");
  int gone = open("/tmp/gone", O_RDWR | O_CREAT, 0600);
  need(gone >= 0 && write(gone, "still here", 10) == 10 && unlink("/tmp/gone") == 0, "deleted");

  auto* shared = static_cast<std::atomic<long>*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  if (fork() == 0)
    for (;;) {
      *shared = lseek(file, 0, SEEK_CUR);
      sleep_us(2000);
    }
  serve([&](Verdict& verdict) {
    auto at = [](int fd) { return static_cast<long>(lseek(fd, 0, SEEK_CUR)); };
    verdict.expect(at(file) == 4 && at(twin) == 4 && at(far) == 4 && at(other) == 0, "offsets");
    lseek(twin, 6, SEEK_SET);
    verdict.expect(at(file) == 6 && at(far) == 6, "the offset is no longer shared by dup");
    sleep_us(100000);
    verdict.expect(*shared == 6, "the offset is no longer shared with the child: %ld",
                   shared->load());
    lseek(file, 4, SEEK_SET);
    verdict.expect(at(other) == 0, "separate opens share an offset");
    verdict.expect((fcntl(file, F_GETFL) & O_ACCMODE) == O_RDWR, "mode of file");
    int flags = fcntl(append, F_GETFL);
    verdict.expect((flags & O_APPEND) && (flags & O_NONBLOCK) && (flags & O_ACCMODE) == O_WRONLY,
                   "flags of the appender: %o", flags);
    verdict.expect(fcntl(append, F_GETFD) == FD_CLOEXEC && fcntl(far, F_GETFD) == FD_CLOEXEC &&
                       fcntl(file, F_GETFD) == 0,
                   "close-on-exec");
    verdict.expect(fcntl(path, F_GETFL) & O_PATH, "O_PATH");
    struct stat is;
    verdict.expect(fstatat(directory, "file", &is, 0) == 0 && (is.st_mode & 0777) == 0640,
                   "directory");
    char byte = 1;
    verdict.expect(read(zero, &byte, 1) == 1 && byte == 0, "/dev/zero");
    verdict.expect(write(null, &byte, 1) == 1, "/dev/null");
    char text[4096] = {};
    verdict.expect(pread(proc, text, sizeof text - 1, 0) > 0 && strstr(text, "Name:\tfiles"),
                   "/proc/self/status");
    verdict.expect(pread(in_tmp, text, 5, 0) == 5 && !memcmp(text, "tmpfs", 5), "tmpfs file");
    verdict.expect(read_file("/tmp/in-tmpfs") == "tmpfs", "tmpfs file by name");
    verdict.expect(pread(gone, text, 10, 0) == 10 && !memcmp(text, "still here", 10),
                   "deleted file");
    verdict.expect(fstat(gone, &is) == 0 && is.st_nlink == 0 && access("/tmp/gone", F_OK) != 0,
                   "the deleted file has a name");
    verdict.expect(fcntl(300, F_GETFD) < 0, "a descriptor too many");
  });
}
