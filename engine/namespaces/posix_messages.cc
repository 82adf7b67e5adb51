#include "engine/namespaces/posix_messages.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "base/error.h"
#include "kernel/call.h"

namespace stasis::engine::sysv {
namespace {

struct Head {
  uint32_t size, priority;
};

// One message behind the other, each with room for the longest; shared with a child.
class Slots {
 public:
  Slots(size_t count, size_t longest) : longest_(longest), size_(count * stride()) {
    auto memory = kernel::must(kernel::call(SYS_mmap, nullptr, size_, PROT_READ | PROT_WRITE,
                                            MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0),
                               "have room for", "messages");
    memory_ = reinterpret_cast<char*>(memory);
  }
  ~Slots() { munmap(memory_, size_); }
  Slots(const Slots&) = delete;
  Slots& operator=(const Slots&) = delete;

  Head& head(size_t i) const { return *reinterpret_cast<Head*>(memory_ + i * stride()); }
  char* data(size_t i) const { return memory_ + i * stride() + sizeof(Head); }
  size_t longest() const { return longest_; }

 private:
  size_t stride() const {
    return (sizeof(Head) + longest_ + alignof(Head) - 1) & ~(alignof(Head) - 1);
  }

  size_t longest_, size_;
  char* memory_ = nullptr;
};

long again(const auto& call) {
  for (;;)
    if (long result = call(); result != -EINTR && result != -ENOMEM) return result;
}

// What it has taken it puts back, or nobody does.
[[noreturn]] void take_and_put_back(int queue, const Slots& slots, size_t count) {
  kernel::spare_this_process();
  setsid();  // who interrupts the engine's group doesn't mean it
  size_t taken = 0, back = 0;
  for (; taken < count; ++taken) {
    Head& head = slots.head(taken);
    long size = again([&] {
      return kernel::call(SYS_mq_timedreceive, queue, slots.data(taken), slots.longest(),
                          &head.priority, nullptr);
    });
    if (size < 0) break;
    head.size = static_cast<uint32_t>(size);
  }
  for (; back < taken; ++back) {
    const Head& head = slots.head(back);
    if (again([&] {
          return kernel::call(SYS_mq_timedsend, queue, slots.data(back), head.size, head.priority,
                              nullptr);
        }) < 0)
      break;
  }
  _exit(taken == count && back == taken ? 0 : 1);
}

}  // namespace

PosixMessages copy_messages(int queue, const mq_attr& attributes, const std::string& name) {
  PosixMessages messages;
  const auto count = static_cast<size_t>(attributes.mq_curmsgs);
  if (count == 0) return messages;
  Slots slots(count, static_cast<size_t>(attributes.mq_msgsize));
  pid_t child = fork();
  if (child < 0) throw Error("copy", name).with_errno(errno);
  if (child == 0) take_and_put_back(queue, slots, count);
  // Not to be killed, whatever fails here.
  int status = 0;
  long ended;
  do ended = kernel::call(SYS_wait4, child, &status, __WALL, nullptr);
  while (ended < 0 && ended != -ECHILD);
  if (ended != child || status != 0)
    throw Error("copy", name)
        .because("its messages changed while they were taken out and put back");
  for (size_t i = 0; i < count; ++i) {
    image::PosixMessageEntry& message = *messages.Add();
    message.set_priority(slots.head(i).priority);
    message.set_data(slots.data(i), slots.head(i).size);
  }
  return messages;
}

void send_messages(int queue, const PosixMessages& messages, const std::string& name) {
  for (const image::PosixMessageEntry& message : messages)
    kernel::must(kernel::call(SYS_mq_timedsend, queue, message.data().data(), message.data().size(),
                              message.priority(), nullptr),
                 "put a message into", name);
}

}  // namespace stasis::engine::sysv
