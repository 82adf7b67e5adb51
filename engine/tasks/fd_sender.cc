#include "engine/tasks/fd_sender.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>

#include "kernel/call.h"

namespace stasis::engine {

namespace {

constexpr size_t at_once = 250;  // the kernel's SCM_MAX_FD is 253

}  // namespace

void send_descriptors(int socket, std::span<const int> fds) {
  std::vector<char> control(CMSG_SPACE(fds.size_bytes()));
  char word = 'f';
  iovec data{&word, 1};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(fds.size_bytes());
  memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  kernel::must(kernel::call(SYS_sendmsg, socket, &message, 0), "hand over descriptors");
}

FdSender::FdSender(int at_least) {
  int ends[2];
  kernel::must(kernel::call(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends),
               "make a socket pair");
  ours_.reset(ends[0]);
  UniqueFd theirs(ends[1]);
  theirs_.reset(static_cast<int>(
      kernel::must(kernel::call(SYS_fcntl, theirs.get(), F_DUPFD_CLOEXEC, at_least),
                   "place a descriptor at " + std::to_string(at_least) + " or above")));
}

void FdSender::send(const std::vector<int>& fds, SyscallBatch& batch) {
  for (size_t from = 0; from < fds.size(); from += at_once) {
    size_t count = std::min(at_once, fds.size() - from);
    send_descriptors(ours_.get(), std::span(fds).subspan(from, count));

    SyscallBatch::Data their_word = batch.space(1);
    iovec their_data{nullptr, 1};
    SyscallBatch::Data vector = batch.object(their_data);
    batch.point(vector, offsetof(iovec, iov_base), their_word);
    msghdr received{};
    received.msg_iovlen = 1;
    received.msg_controllen = CMSG_SPACE(count * sizeof(int));
    SyscallBatch::Data their_control = batch.space(CMSG_SPACE(count * sizeof(int)));
    SyscallBatch::Data their_message = batch.object(received);
    batch.point(their_message, offsetof(msghdr, msg_iov), vector);
    batch.point(their_message, offsetof(msghdr, msg_control), their_control);
    batch.must("receive the descriptors of", SYS_recvmsg, number(), their_message, 0);
  }
}

}  // namespace stasis::engine
