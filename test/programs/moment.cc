// moment [MIB] [pair | advice]: memory that is of one moment or seen to be wrong. Threads write
// generation after generation into their pages, one by one; before a page is written
// it must hold the generation before. A page that was saved any later than the
// writer's own registers is ahead of them when its turn comes. The pages lie, in
// turns, in private memory, in what a fork doesn't have and in shared memory. With
// "pair" a child does so, too, whenever its parent tells it to through a pipe.
// With "advice" a thread changes its mind all the time about what a fork is to have.
// Nobody may have had a child that isn't its own.
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <atomic>
#include <thread>
#include <vector>

#include "program.h"

using namespace program;

namespace {

constexpr size_t page = 4096;
constexpr int writers = 3;

std::atomic<int> child_signals{0};

struct Shared {
  std::atomic<uint64_t> passes[writers];
  std::atomic<uint64_t> child_pages;
  std::atomic<bool> child_damaged;
};

char* map(size_t bytes, int flags, int advice) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
  need(memory != MAP_FAILED, "mmap");
  madvise(memory, bytes, MADV_NOHUGEPAGE);
  if (advice) need(madvise(memory, bytes, advice) == 0, "madvise");
  return static_cast<char*>(memory);
}

// Pages of all kinds of memory, in turns.
class Pages {
 public:
  explicit Pages(size_t bytes) : pages_(bytes / page) {
    auto* plain = map(bytes, MAP_PRIVATE, 0);
    const size_t part = bytes / 16;
    char* others[] = {map(part, MAP_PRIVATE, MADV_DONTFORK),
                      map(part, MAP_PRIVATE, MADV_WIPEONFORK), map(part, MAP_SHARED, 0)};
    for (size_t i = 0; i < pages_.size(); i++) {
      size_t turn = i % 16;
      pages_[i] = turn < 3 ? others[turn] + i / 16 * page : plain + i * page;
    }
  }

  size_t count() const { return pages_.size(); }

  // Whether the page held what it should.
  bool write(size_t i, uint64_t generation) {
    auto* first = reinterpret_cast<volatile uint64_t*>(pages_[i]);
    auto* last = first + page / 8 - 1;
    bool right = *first == generation - 1 && *last == generation - 1;
    *first = generation;
    *last = generation;
    return right;
  }

 private:
  std::vector<char*> pages_;
};

struct Token {
  uint64_t page, generation;
};

// The kernel's flags of the area at `memory`.
std::string flags_of(const void* memory) {
  char start[32];
  snprintf(start, sizeof start, "\n%lx-", reinterpret_cast<unsigned long>(memory));
  std::string text = read_file("/proc/self/smaps");
  size_t at = text.find(start);
  if (at == std::string::npos) return "none";
  at = text.find("VmFlags:", at);
  return text.substr(at, text.find('\n', at) - at);
}

void change_mind(std::string* wrong) {
  char* memory = map(16 * page, MAP_PRIVATE, 0);
  mprotect(memory, page, PROT_NONE);  // an area that is like no other
  memory += page;
  for (bool forked = false;; forked = !forked) {
    for (int i = 0; i < 100000; i++)
      madvise(memory, 15 * page, (i % 2 == 0) != forked ? MADV_DOFORK : MADV_DONTFORK);
    madvise(memory, 15 * page, forked ? MADV_DOFORK : MADV_DONTFORK);
    std::string flags;
    // A checkpoint that comes while smaps is read, in pieces, may spoil the text.
    do flags = flags_of(memory);
    while (flags == "none");
    if ((flags.find(" dc") == std::string::npos) != forked && wrong->empty())
      *wrong = (forked ? "DOFORK: " : "DONTFORK: ") + flags;
  }
}

[[noreturn]] void be_child(int in, size_t bytes, Shared* shared) {
  Pages pages(bytes);
  for (Token token; read(in, &token, sizeof token) == sizeof token; shared->child_pages++)
    if (!pages.write(token.page, token.generation)) shared->child_damaged = true;
  _exit(0);
}

}  // namespace

int main(int argc, char** argv) {
  const size_t bytes = (argc > 1 ? strtoul(argv[1], nullptr, 10) : 64) << 20;
  const bool pair = argc > 2 && !strcmp(argv[2], "pair");
  const bool advice = argc > 2 && !strcmp(argv[2], "advice");
  signal(SIGCHLD, [](int) { child_signals++; });
  auto* shared = reinterpret_cast<Shared*>(map(page, MAP_SHARED, 0));
  int ends[2];
  need(pipe2(ends, O_CLOEXEC) == 0, "pipe");
  if (pair) {
    pid_t child = fork();
    need(child >= 0, "fork");
    if (child == 0) {
      close(ends[1]);
      be_child(ends[0], bytes / writers, shared);
    }
    close(ends[0]);
  }
  std::atomic<bool> damaged{false};
  std::string wrong;
  std::vector<std::thread> threads;
  for (int w = 0; w < writers; w++)
    threads.emplace_back([&, w] {
      Pages pages(bytes / writers);
      for (uint64_t generation = 1;; generation++, shared->passes[w]++)
        for (uint64_t i = 0; i < pages.count(); i++) {
          if (!pages.write(i, generation)) damaged = true;
          Token token{i, generation};
          if (pair && w == 0 && write(ends[1], &token, sizeof token) < 0) damaged = true;
        }
    });
  if (advice) threads.emplace_back(change_mind, &wrong);
  for (auto& passes : shared->passes)
    while (passes == 0) sleep_us(1000);
  serve([&](Verdict& verdict) {
    // All pages are looked at by the second pass.
    for (auto& passes : shared->passes)
      for (uint64_t now = passes; passes < now + 2;) sleep_us(1000);
    verdict.expect(wrong.empty(), "advice: %s", wrong.c_str());
    verdict.expect(!damaged, "memory is not of one moment");
    verdict.expect(!shared->child_damaged, "the child's memory is not of its parent's moment");
    verdict.expect(!pair || shared->child_pages > 0, "the child does nothing");
    verdict.expect(child_signals == 0, "%d signals of children", child_signals.load());
    for (int flags : {0, __WALL}) {
      pid_t found = waitpid(-1, nullptr, WNOHANG | flags);
      verdict.expect(pair ? found == 0 : found < 0 && errno == ECHILD, "wait finds %d", found);
    }
    std::string children = read_file("/proc/self/task/1/children");
    verdict.expect(children.find(' ') == (pair ? children.size() - 1 : std::string::npos),
                   "its children are %s", children.c_str());
  });
}
