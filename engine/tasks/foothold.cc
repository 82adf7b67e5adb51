#include "engine/tasks/foothold.h"

#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <array>
#include <bit>
#include <cstring>

#include "engine/memory/address_space.h"
#include "kernel/fs.h"

namespace stasis::engine {

namespace {

// Below the stack pointer of a new program the kernel has mapped 128 KiB of stack.
constexpr uint64_t below_stack = 8192;

class Fresh {
 public:
  Fresh(Tracee& task, const std::string& who) : task_(task), who_(who) {
    Registers r = task.registers();
    code_ = r.rip;
    scratch_ = (r.rsp - below_stack) & ~uint64_t{15};
    // The program won't run: its first instruction becomes a system call.
    uint64_t syscall_instruction = 0x050f;
    kernel::must(kernel::call(SYS_ptrace, PTRACE_POKETEXT, task.tid(), code_, syscall_instruction),
                 "prepare", who_);
  }

  uint64_t scratch() const { return scratch_; }
  template <typename T>
  uint64_t put(uint64_t offset, const T& value) {
    write_memory(task_.tid(), scratch_ + offset, &value, sizeof value);
    return scratch_ + offset;
  }
  template <typename T>
  T get(uint64_t offset) {
    T value{};
    read_memory(task_.tid(), scratch_ + offset, &value, sizeof value);
    return value;
  }
  long must(const char* what, long nr, std::vector<uint64_t> args) {
    return kernel::must(task_.run_syscall(code_, nr, std::move(args)), what, who_);
  }

  // Receives `count` (two at most) descriptors that wait at its socket.
  std::array<int, 2> receive(int socket, size_t count) {
    struct {
      msghdr message;
      iovec vector;
      uint64_t word;
      alignas(cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))];
    } area{};
    auto at = [&](const void* member) {
      return std::bit_cast<void*>(scratch_ +
                                  static_cast<uint64_t>(static_cast<const char*>(member) -
                                                        reinterpret_cast<const char*>(&area)));
    };
    area.vector = {at(&area.word), 1};
    area.message.msg_iov = static_cast<iovec*>(at(&area.vector));
    area.message.msg_iovlen = 1;
    area.message.msg_control = at(area.control);
    area.message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    put(0, area);
    must("receive the descriptors of", SYS_recvmsg,
         {static_cast<uint64_t>(socket), scratch_, MSG_DONTWAIT});
    area = get<decltype(area)>(0);
    std::array<int, 2> fds{-1, -1};
    const auto* header = reinterpret_cast<const cmsghdr*>(area.control);
    if (header->cmsg_len != CMSG_LEN(count * sizeof(int)))
      throw Error("hand over descriptors to", who_)
          .because("it may have too few open")
          .hint("raise its limit of open files (RLIMIT_NOFILE)");
    memcpy(fds.data(), CMSG_DATA(header), count * sizeof(int));
    return fds;
  }

 private:
  Tracee& task_;
  const std::string& who_;
  uint64_t code_ = 0, scratch_ = 0;
};

// The task makes a socket pair, of which we take one end.
std::array<int, 2> receive_first(Fresh& fresh, Tracee& task, std::array<int, 2> fds) {
  fresh.must("make a socket pair of", SYS_socketpair, {AF_UNIX, SOCK_DGRAM, 0, fresh.scratch()});
  auto ends = fresh.get<std::array<int, 2>>(0);
  UniqueFd pidfd = kernel::pidfd_open(task.tid());
  UniqueFd ours = kernel::pidfd_getfd(pidfd.get(), ends[1]);
  send_descriptors(ours.get(), fds);
  return fresh.receive(ends[0], 2);
}

}  // namespace

void gain_foothold(Tracee& task, Trampoline& trampoline, FdSender& sender, bool has_sender,
                   const std::string& who) {
  Fresh fresh(task, who);
  std::array<int, 2> fds{-1, sender.number()};
  if (has_sender) {
    int memory = trampoline.memory();
    send_descriptors(sender.ours(), {&memory, 1});
    fds[0] = fresh.receive(sender.number(), 1)[0];
  } else {
    fds = receive_first(fresh, task, {trampoline.memory(), sender.theirs()});
  }
  for (const Trampoline::Part& part : trampoline.parts())
    fresh.must("map a memory file into", SYS_mmap,
               {part.address, part.size, static_cast<uint64_t>(part.protection),
                MAP_SHARED | MAP_FIXED_NOREPLACE, static_cast<uint64_t>(fds[0]), part.offset});

  SyscallBatch batch;
  int keep = sender.number();
  batch.must("place the descriptors of", SYS_dup2, fds[1], keep);  // kept over execve
  if (keep > 0) batch.must("close the descriptors of", SYS_close_range, 0, keep - 1, 0);
  batch.must("close the descriptors of", SYS_close_range, keep + 1, ~0u, 0);
  batch.must("empty the memory of", SYS_munmap, 0, trampoline.start());
  batch.must("empty the memory of", SYS_munmap, trampoline.end(), task_size - trampoline.end());
  trampoline.run(task, batch, who);
}

}  // namespace stasis::engine
