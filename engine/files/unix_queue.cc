#include "engine/files/unix_queue.h"

#include <fmt/core.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "base/scope_exit.h"
#include "engine/files/dumper.h"
#include "engine/files/owner.h"
#include "engine/files/restorer.h"
#include "engine/image/image.h"
#include "kernel/fs.h"
#include "kernel/socket.h"

namespace stasis::engine::files {

namespace {

constexpr int scm_pidfd = 4;         // SCM_PIDFD, which libc's headers lack
constexpr size_t most_rights = 253;  // SCM_MAX_FD

struct Peeked {
  std::string bytes;
  std::vector<UniqueFd> rights;
  std::string sender;
  std::optional<ucred> credentials;
  bool nothing = false;  // the queue has come to its end
};

int option(int fd, int name) {
  return kernel::socket_option<int>(fd, SOL_SOCKET, name, "look at", "a socket");
}

void set_peek_offset(int fd, int offset) {
  kernel::set_socket_option(fd, SOL_SOCKET, SO_PEEK_OFF, offset, "set the peek offset of",
                            "a socket");
}

void take_control(msghdr& message, Peeked& peeked) {
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part; part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET) continue;
    if (part->cmsg_type == SCM_CREDENTIALS) {
      std::memcpy(&peeked.credentials.emplace(), CMSG_DATA(part), sizeof(ucred));
      continue;
    }
    size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    bool rights = part->cmsg_type == SCM_RIGHTS;
    if (!rights && part->cmsg_type != scm_pidfd) continue;
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      UniqueFd owned(fd);
      if (rights) peeked.rights.push_back(std::move(owned));
    }
  }
}

class Queue {
 public:
  Queue(Dumper& dumper, const OpenFile& file)
      : dumper_(dumper), file_(file), fd_(file.fd.get()), before_(option(fd_, SO_PEEK_OFF)) {}
  // An engine that is killed can't put the mark back: it is set where there must be one.
  ~Queue() {
    if (marked_)
      kernel::call(SYS_setsockopt, fd_, SOL_SOCKET, SO_PEEK_OFF, &before_, sizeof before_);
  }
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  // A reader that asks for less must get the same files with the same bytes:
  // the kernel puts bytes before a file together with those that it came with.
  void dump_stream(size_t waiting) {
    if (before_ < 0) {
      Peeked all = peek(waiting);
      if (all.bytes.size() == waiting && all.rights.empty()) return write(std::move(all));
    }
    for (size_t offset = 0; offset < waiting;) {
      Peeked part = peek_at(offset, waiting - offset);
      if (part.nothing || part.bytes.empty())
        throw Error("dump", name()).because("its queue changes, or holds urgent data");
      size_t size = part.bytes.size();
      if (!part.rights.empty()) {
        size_t plain = bytes_before_rights(offset, size);
        if (plain) write({part.bytes.substr(0, plain), {}, {}, part.credentials});
        part.bytes.erase(0, plain);
      }
      write(std::move(part));
      offset += size;
    }
  }

  void dump_packets(size_t most, bool ended) {
    pollfd poll{fd_, POLLIN, 0};
    if (kernel::must(kernel::call(SYS_poll, &poll, 1, 0), "look at", name()) == 0) return;
    mark(0);
    for (;;) {
      Peeked packet = peek(most);
      // At the end of a connection the kernel tells nothing in place of a packet.
      if (packet.nothing || (ended && packet.bytes.empty() && packet.rights.empty())) return;
      write(std::move(packet));
    }
  }

 private:
  std::string name() const { return file_.probe.described(); }

  void mark(size_t offset) {
    marked_ = true;
    set_peek_offset(fd_, static_cast<int>(offset));
  }

  Peeked peek(size_t most) {
    Peeked peeked;
    peeked.bytes.resize(std::max<size_t>(most, 1));
    alignas(cmsghdr) char control[CMSG_SPACE(most_rights * sizeof(int)) + 512];
    iovec vector{peeked.bytes.data(), most};
    sockaddr_un sender{};
    msghdr message{};
    message.msg_name = &sender;
    message.msg_namelen = sizeof sender;
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    long size =
        kernel::call(SYS_recvmsg, fd_, &message, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    peeked.nothing = size == -EAGAIN;
    if (peeked.nothing) size = 0;
    kernel::must(size, "look into the queue of", name());
    take_control(message, peeked);
    if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
      throw Error("dump", name()).because("a message in it is too large");
    peeked.bytes.resize(static_cast<size_t>(size));
    if (message.msg_namelen > offsetof(sockaddr_un, sun_path))
      peeked.sender.assign(sender.sun_path, message.msg_namelen - offsetof(sockaddr_un, sun_path));
    return peeked;
  }

  Peeked peek_at(size_t offset, size_t most) {
    mark(offset);
    return peek(most);
  }

  // Of a part that ends in files: how much of it comes without any. The kernel
  // looks on for files behind what it is asked for, but passes over a message
  // that it can't copy whole: here the last byte has no room.
  size_t bytes_before_rights(size_t offset, size_t size) {
    constexpr size_t page = 4096;
    size_t room = (size - 1 + page - 1) / page * page;
    long at = kernel::must(kernel::call(SYS_mmap, 0, room + page, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
                           "make room");
    ScopeExit unmap([&] { kernel::call(SYS_munmap, at, room + page); });
    auto end = static_cast<uint64_t>(at) + room;
    kernel::must(kernel::call(SYS_mprotect, end, page, PROT_NONE), "make room");
    mark(offset);
    iovec vector{reinterpret_cast<void*>(end - (size - 1)), size};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    long copied = kernel::call(SYS_recvmsg, fd_, &message, MSG_PEEK | MSG_DONTWAIT);
    if (copied == -EFAULT) return 0;
    return static_cast<size_t>(kernel::must(copied, "look into the queue of", name()));
  }

  void write(Peeked peeked) {
    image::SkPacketEntry entry;
    entry.set_id_for(file_.id);
    entry.set_length(static_cast<uint32_t>(peeked.bytes.size()));
    if (!peeked.rights.empty()) {
      image::ScmEntry& scm = *entry.add_scm();
      scm.set_type(SCM_RIGHTS);
      for (UniqueFd& fd : peeked.rights)
        scm.add_rights(dumper_.in_flight(std::move(fd), file_.probe));
    }
    dumper_.writer().append("sk-queues", entry, peeked.bytes);
    image::UnixPacketEntry more;
    if (!peeked.sender.empty()) more.set_sender(peeked.sender);
    if (peeked.credentials) describe(*peeked.credentials, *more.mutable_credentials());
    // As many as there are packets, though most have nothing to be said of.
    image::UnixMoreEntry& socket = dumper_.unix_more(file_.entry.usk().ino());
    for (; packets_ > socket.packets_size();) socket.add_packets();
    if (more.ByteSizeLong() != 0) *socket.add_packets() = std::move(more);
    ++packets_;
  }

  // A sender that has ended has no pid any more that could be told.
  void describe(const ucred& sender, image::UnixDoerEntry& entry) const {
    pid_t pid = sender.pid ? pid_inside(dumper_.plan().root, sender.pid) : 0;
    entry.set_pid(static_cast<uint32_t>(pid));
    entry.set_uid(dumper_.ids().find_uid_inside(sender.uid).value_or(sender.uid));
    entry.set_gid(dumper_.ids().find_gid_inside(sender.gid).value_or(sender.gid));
  }

  Dumper& dumper_;
  const OpenFile& file_;
  int fd_;
  int before_;
  int packets_ = 0;
  bool marked_ = false;
};

struct Control {
  std::vector<char> bytes;

  void add(int type, const void* data, size_t size) {
    size_t at = bytes.size();
    bytes.resize(at + CMSG_SPACE(size));
    cmsghdr head{};
    head.cmsg_level = SOL_SOCKET;
    head.cmsg_type = type;
    head.cmsg_len = CMSG_LEN(size);
    std::memcpy(bytes.data() + at, &head, sizeof head);
    std::memcpy(bytes.data() + at + CMSG_LEN(0), data, size);
  }
};

}  // namespace

void dump_unix_queue(Dumper& dumper, const OpenFile& file) {
  constexpr int end_of_input = 1;  // RCV_SHUTDOWN
  int fd = file.fd.get();
  if (option(fd, SO_ACCEPTCONN)) return;
  const image::UnixSkEntry& entry = file.entry.usk();
  if (int offset = option(fd, SO_PEEK_OFF); offset >= 0)
    dumper.unix_more(entry.ino()).set_peek_offset(static_cast<uint32_t>(offset));
  int waiting = 0;
  kernel::must(kernel::call(SYS_ioctl, fd, FIONREAD, &waiting), "look into the queue of",
               file.probe.described());
  auto size = static_cast<size_t>(std::max(waiting, 0));
  if (entry.type() == SOCK_SEQPACKET && entry.state() != TCP_ESTABLISHED) return;
  if (entry.type() == SOCK_STREAM) {
    if (size) Queue(dumper, file).dump_stream(size);
    return;
  }
  // A packet is never larger than what its sender may have under way.
  size_t most = std::max<size_t>({size, static_cast<size_t>(option(fd, SO_SNDBUF)), 1 << 20});
  Queue(dumper, file).dump_packets(most, (entry.shutdown() & end_of_input) != 0);
}

void send_packet(Restorer& restorer, const SocketPacket& packet, const Sending& how) {
  std::string name = fmt::format("socket (file {})", packet.entry.id_for());
  sockaddr_un to{AF_UNIX, {}};
  if (how.address.size() > sizeof to.sun_path)
    throw Error("refill", name).because("its name is too long");
  how.address.copy(to.sun_path, how.address.size());
  Control control;
  std::vector<int> rights;
  for (const image::ScmEntry& scm : packet.entry.scm())
    for (uint32_t id : scm.rights()) rights.push_back(restorer.get(id));
  if (!rights.empty()) control.add(SCM_RIGHTS, rights.data(), rights.size() * sizeof(int));
  auto sender = how.tasks.find(static_cast<pid_t>(how.more.credentials().pid()));
  if (how.more.has_credentials() && sender != how.tasks.end()) {
    ucred who{sender->second, restorer.ids().uid_outside(how.more.credentials().uid(), name),
              restorer.ids().gid_outside(how.more.credentials().gid(), name)};
    control.add(SCM_CREDENTIALS, &who, sizeof who);
  }
  msghdr message{};
  if (!how.address.empty()) {
    message.msg_name = &to;
    message.msg_namelen =
        static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + how.address.size());
  }
  message.msg_control = control.bytes.data();
  message.msg_controllen = control.bytes.size();
  std::string_view rest = packet.bytes;
  do {
    iovec vector{const_cast<char*>(rest.data()), rest.size()};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    long sent =
        kernel::must(kernel::call(SYS_sendmsg, how.sender, &message, MSG_DONTWAIT | MSG_NOSIGNAL),
                     "refill", name);
    rest.remove_prefix(static_cast<size_t>(sent));
    message.msg_controllen = 0;  // went with the first bytes
    message.msg_control = nullptr;
  } while (!rest.empty());
}

}  // namespace stasis::engine::files
