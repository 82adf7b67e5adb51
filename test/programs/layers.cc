// layers: holds files of a root that is made of layers - one of a lower layer,
// mapped and open, one of the upper, a directory that both have a part of, one
// that was copied up while it was open - and verifies that they are what they
// were.
#include <dirent.h>
#include <sys/mman.h>

#include <set>

#include "program.h"

using namespace program;

namespace {

constexpr size_t size = 3 * 4096;

const char* map(int fd, int protection, int flags) {
  void* at = mmap(nullptr, size, protection, flags, fd, 0);
  need(at != MAP_FAILED, "mmap");
  return static_cast<const char*>(at);
}

bool all(const char* at, char wanted) {
  for (size_t i = 0; i < size; ++i)
    if (at[i] != wanted) return false;
  return true;
}

bool shows(int fd, char wanted) {
  std::string text(size, '\0');
  return pread(fd, text.data(), size, 0) == static_cast<ssize_t>(size) && all(text.data(), wanted);
}

std::set<std::string> names(int directory) {
  std::set<std::string> found;
  DIR* list = fdopendir(openat(directory, ".", O_RDONLY | O_DIRECTORY));
  if (!list) return found;
  while (dirent* entry = readdir(list)) found.insert(entry->d_name);
  closedir(list);
  return found;
}

int create(const char* path, char with) {
  int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0644);
  std::string text(size, with);
  need(fd >= 0 && write(fd, text.data(), size) == static_cast<ssize_t>(size), path);
  return fd;
}

}  // namespace

// The test has put files of three pages of 'l' into the lower layers.
int main() {
  int lower = open("/laid/lower", O_RDONLY), removed = open("/laid/removed", O_RDONLY);
  need(lower >= 0 && removed >= 0, "a file of the lower layer");
  const char* text = map(lower, PROT_READ, MAP_PRIVATE);
  const char* gone = map(removed, PROT_READ, MAP_PRIVATE);
  need(unlink("/laid/removed") == 0, "unlink");
  close(removed);
  int upper = create("/laid/upper", 'u');
  auto* shared = const_cast<char*>(map(upper, PROT_READ | PROT_WRITE, MAP_SHARED));
  int directory = open("/laid", O_RDONLY | O_DIRECTORY);
  int early = open("/laid/copied", O_RDONLY);
  const char* old = map(early, PROT_READ, MAP_PRIVATE);
  const char* written = map(early, PROT_READ | PROT_WRITE, MAP_PRIVATE);
  const_cast<char*>(written)[4096] = 'w';
  int late = open("/laid/copied", O_RDWR);  // copies it up
  std::string changed(size, 'c');
  need(early >= 0 && late >= 0 && pwrite(late, changed.data(), size, 0) > 0, "copy up");
  const char* copied = map(late, PROT_READ, MAP_PRIVATE);
  need(old[0] == 'l' && written[0] == 'l', "an old mapping shows the copy");
  need(chdir("/laid/both") == 0, "chdir");
  create("/laid/both/upper", 'u');
  serve([&](Verdict& verdict) {
    verdict.expect(shows(lower, 'l') && all(text, 'l'), "the lower file");
    verdict.expect(all(gone, 'l'), "the lower file that was removed");
    verdict.expect(shows(upper, 'u') && all(shared, 'u'), "the upper file");
    shared[7] = 'x';
    char byte = 0;
    verdict.expect(pread(upper, &byte, 1, 7) == 1 && byte == 'x', "mapped and open are two files");
    shared[7] = 'u';
    verdict.expect(shows(early, 'c') && shows(late, 'c') && all(copied, 'c'), "the copied file");
    verdict.expect(all(old, 'l'), "what was mapped before it was copied");
    verdict.expect(written[0] == 'l' && written[4096] == 'w' && written[8192] == 'l',
                   "what was mapped before it was copied, with a page of its own");
    verdict.expect(
        names(directory) == std::set<std::string>{".", "..", "lower", "upper", "copied", "both"},
        "the open directory");
    verdict.expect(names(AT_FDCWD) == std::set<std::string>{".", "..", "lower", "upper"},
                   "the working directory");
  });
}
