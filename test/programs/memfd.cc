// Memory files: names, seals, positions, holes, owners and modes; mapped by
// several processes, shared and privately; one that is executed.
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <atomic>

#include "program.h"

using namespace program;

namespace {

constexpr size_t page = 4096, mib = 1 << 20;
constexpr off_t far = 3000 * mib;
constexpr unsigned noexec_seal = 8;  // MFD_NOEXEC_SEAL, of Linux 6.3

struct File {
  const char* name;
  int fd;
  unsigned seals;
  struct stat stat;
  off_t position;
  int flags;
};
File files[8];
int count = 0;

int make(const char* name, unsigned flags) {
  int fd = memfd_create(name, flags);
  need(fd >= 0, name);
  return fd;
}

void keep(const char* name, int fd) {
  File& file = files[count++];
  file.name = name;
  file.fd = fd;
  file.seals = static_cast<unsigned>(fcntl(fd, F_GET_SEALS));
  file.position = lseek(fd, 0, SEEK_CUR);
  file.flags = fcntl(fd, F_GETFL);
  need(fstat(fd, &file.stat) == 0, "fstat");
}

void verify(const File& file, Verdict& verdict) {
  struct stat now{};
  fstat(file.fd, &now);
  std::string link = "/proc/self/fd/" + std::to_string(file.fd);
  char path[300] = {};
  (void)!readlink(link.c_str(), path, sizeof path - 1);
  verdict.expect(std::string("/memfd:") + file.name + " (deleted)" == path, "%s is now %s",
                 file.name, path);
  verdict.expect(now.st_size == file.stat.st_size, "%s: size %ld", file.name, long{now.st_size});
  verdict.expect(now.st_mode == file.stat.st_mode, "%s: mode %o", file.name, now.st_mode);
  verdict.expect(now.st_uid == file.stat.st_uid && now.st_gid == file.stat.st_gid, "%s: owner %u",
                 file.name, now.st_uid);
  unsigned seals = static_cast<unsigned>(fcntl(file.fd, F_GET_SEALS));
  verdict.expect(seals == file.seals, "%s: seals %x, were %x", file.name, seals, file.seals);
  verdict.expect(lseek(file.fd, 0, SEEK_CUR) == file.position, "%s: position", file.name);
  verdict.expect(fcntl(file.fd, F_GETFL) == file.flags, "%s: flags %x", file.name,
                 fcntl(file.fd, F_GETFL));
}

bool same_inode(int a, int b) {
  struct stat x{}, y{};
  return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_ino == y.st_ino && x.st_dev == y.st_dev;
}

struct Shared {
  std::atomic<uint64_t> ticks, asked;
  std::atomic<bool> damaged;
};

void* map(size_t bytes, int protection, int flags, int fd, off_t at = 0) {
  void* memory = mmap(nullptr, bytes, protection, flags, fd, at);
  need(memory != MAP_FAILED, "mmap");
  return memory;
}

// By the one descriptor that is open for writing.
bool executes(int fd) {
  pid_t child = fork();
  if (child == 0) {
    char* words[] = {const_cast<char*>("true"), nullptr};
    syscall(SYS_execveat, fd, "", words, words + 1, AT_EMPTY_PATH);
    _exit(99);
  }
  int status = -1;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  return status == 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && !strcmp(argv[1], "executed")) return 0;
  int plain = make("plain", 0);
  need(write(plain, "some words", 10) == 10 && lseek(plain, 4, SEEK_SET) == 4, "write");
  need(fchmod(plain, 0640) == 0 && fcntl(plain, F_SETFL, O_NONBLOCK) == 0, "fchmod");
  int reader = open("/proc/self/fd/3", O_RDONLY | O_CLOEXEC);
  need(plain == 3 && reader >= 0, "a second open file");
  need(lseek(reader, 7, SEEK_SET) == 7, "lseek");
  int appender = open("/proc/self/fd/3", O_WRONLY | O_APPEND);
  need(appender >= 0, "a third open file");

  int sparse = make("sparse file: with (deleted) in its name (deleted)", MFD_CLOEXEC);
  need(ftruncate(sparse, far + 100) == 0, "ftruncate");
  need(pwrite(sparse, "end", 3, far) == 3 && pwrite(sparse, "mid", 3, far / 2) == 3, "pwrite");

  int sealed = make("", MFD_ALLOW_SEALING);
  need(ftruncate(sealed, 4 * page) == 0, "ftruncate");
  auto* seen = static_cast<char*>(map(4 * page, PROT_READ | PROT_WRITE, MAP_SHARED, sealed));
  fill(seen, 4 * page, 3);
  munmap(seen, 4 * page);
  need(fcntl(sealed, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) == 0,
       "F_ADD_SEALS");
  auto* own = static_cast<char*>(map(4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, sealed));
  strcpy(own + page, "mine");

  int kept = make("kept open", MFD_ALLOW_SEALING);
  need(ftruncate(kept, mib) == 0, "ftruncate");
  auto* shared = static_cast<Shared*>(map(page, PROT_READ | PROT_WRITE, MAP_SHARED, kept));
  auto* words = static_cast<char*>(map(mib - page, PROT_READ, MAP_SHARED, kept, page));
  auto* writer =
      static_cast<char*>(map(mib - page, PROT_READ | PROT_WRITE, MAP_SHARED, kept, page));
  fill(writer, mib - page, 4);
  need(fcntl(kept, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0, "F_SEAL_FUTURE_WRITE");

  int closed = make("closed", 0);
  need(ftruncate(closed, 2 * page) == 0, "ftruncate");
  auto* gone = static_cast<char*>(map(2 * page, PROT_READ | PROT_WRITE, MAP_SHARED, closed));
  fill(gone, 2 * page, 5);
  close(closed);

  int script = make("script", 0);
  need(write(script, "#!/proc/self/exe executed\n", 26) == 26, "write");

  int quiet = memfd_create("quiet", noexec_seal);
  keep("plain", plain);
  keep("plain", reader);
  keep("plain", appender);
  keep("sparse file: with (deleted) in its name (deleted)", sparse);
  keep("", sealed);
  keep("kept open", kept);
  keep("script", script);
  if (quiet >= 0) keep("quiet", quiet);

  pid_t child = fork();
  need(child >= 0, "fork");
  if (child == 0)
    for (;; shared->ticks++) {
      if (check(words, mib - page, 4) >= 0 || check(gone, 2 * page, 5) >= 0) shared->damaged = true;
      sleep_us(5000);
    }
  serve([&](Verdict& verdict) {
    for (int i = 0; i < count; ++i) verify(files[i], verdict);
    verdict.expect(same_inode(plain, reader) && same_inode(plain, appender), "plain: two of it");
    char text[12] = {};
    verdict.expect(pread(plain, text, 11, 0) == 10 && !strcmp(text, "some words"), "plain: %s",
                   text);
    char end[101] = {}, mid[4] = {};
    verdict.expect(pread(sparse, end, 101, far) == 100 && !strcmp(end, "end"), "sparse: end");
    verdict.expect(pread(sparse, mid, 3, far / 2) == 3 && !strcmp(mid, "mid"), "sparse: middle");
    struct stat stat{};
    fstat(sparse, &stat);
    verdict.expect(stat.st_blocks <= 16, "sparse: %ld blocks", static_cast<long>(stat.st_blocks));
    verdict.expect(!strcmp(own + page, "mine") && check(own, page, 3) < 0, "private mapping");
    char back[page];
    verdict.expect(pread(sealed, back, page, 0) == page && check(back, page, 3) < 0, "sealed");
    verdict.expect(write(kept, "x", 1) < 0 && errno == EPERM, "kept open: not sealed");
    verdict.expect(check(words, mib - page, 4) < 0, "kept open: its content");
    verdict.expect(check(gone, 2 * page, 5) < 0, "closed: its content");
    writer[8]++;
    verdict.expect(words[8] == writer[8], "two mappings of one file differ");
    writer[8]--;
    verdict.expect(executes(script), "it can't be executed any more");
    verdict.expect(!shared->damaged, "the child found its memory damaged");
    uint64_t ticks = shared->ticks;
    for (int i = 0; i < 600 && shared->ticks == ticks; i++) sleep_us(10000);
    verdict.expect(shared->ticks > ticks, "the child no longer shares memory or runs");
  });
}
