// Explicit huge pages: private, shared between processes, and as a System V
// segment. Where the machine has none there is nothing to carry.
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>

#include "program.h"

using namespace program;

namespace {

constexpr size_t huge = 2 << 20;

char* map(int flags, size_t size) {
  void* at =
      mmap(nullptr, size, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
  return at == MAP_FAILED ? nullptr : static_cast<char*>(at);
}

std::string flags_of(const void* memory) {
  char start[32];
  snprintf(start, sizeof start, "%lx-", reinterpret_cast<unsigned long>(memory));
  std::string smaps = read_file("/proc/self/smaps");
  size_t at = smaps.find(start);
  if (at == smaps.npos) return "none";
  at = smaps.find("VmFlags:", at);
  return smaps.substr(at, smaps.find('\n', at) - at);
}

}  // namespace

int main() {
  char* own = map(MAP_PRIVATE, 2 * huge);
  char* shared = own ? map(MAP_SHARED, huge) : nullptr;
  int segment = shared ? shmget(IPC_PRIVATE, huge, IPC_CREAT | SHM_HUGETLB | 0600) : -1;
  char* attached = segment < 0 ? nullptr : static_cast<char*>(shmat(segment, nullptr, 0));
  std::string before;
  if (shared) {
    fill(own + huge, huge, 1);  // and nothing in the first
    fill(shared, huge, 2);
    if (attached) fill(attached, huge, 3);
    before = flags_of(own) + flags_of(shared);
    if (fork() == 0)
      for (;; sleep_us(1000)) {
        auto* words = reinterpret_cast<volatile uint64_t*>(shared);
        words[1] = words[0];
      }
  }
  serve([&](Verdict& verdict) {
    if (!shared) return;
    verdict.expect(flags_of(own) + flags_of(shared) == before, "%s%s, was %s",
                   flags_of(own).c_str(), flags_of(shared).c_str(), before.c_str());
    verdict.expect(own[0] == 0 && check(own + huge, huge, 1) < 0, "private: content");
    auto* words = reinterpret_cast<volatile uint64_t*>(shared);
    for (size_t i = 2; i < huge / 8; i++)
      if (words[i] != pattern(2, i)) {
        verdict.expect(false, "shared: word %zu", i);
        break;
      }
    static uint64_t last = 100;
    words[0] = ++last;
    for (int i = 0; i < 2000 && words[1] != last; i++) sleep_us(1000);
    verdict.expect(words[1] == last, "shared no more");
    if (attached) verdict.expect(check(attached, huge, 3) < 0, "segment: content");
  });
}
