#include "cli/open_file.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <fmt/ranges.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <vector>

#include "kernel/proc_misc.h"

namespace stasis::cli {
namespace {

using google::protobuf::Message;
using image::FileEntry;

std::string access_of(const Message& details) {
  const auto* field = details.GetDescriptor()->FindFieldByName("flags");
  if (!field || !details.GetReflection()->HasField(details, field)) return {};
  switch (details.GetReflection()->GetUInt32(details, field) & (O_ACCMODE | O_PATH)) {
    case O_RDONLY:
      return "r";
    case O_WRONLY:
      return "w";
    case O_RDWR:
      return "rw";
    default:
      return {};
  }
}

std::string kind_of(const image::RegFileEntry& file) {
  if (S_ISDIR(file.mode())) return "directory";
  if (S_ISCHR(file.mode()) || S_ISBLK(file.mode())) return "device";
  return "file";
}

// The path of the regular file by which another kind of file was opened.
std::string path_of(const image::Checkpoint& image, uint32_t id) {
  auto found = image.files.find(id);
  return found == image.files.end() ? std::string() : found->second.reg().name();
}

std::string regular_name(const image::Checkpoint& image, const image::RegFileEntry& file) {
  bool removed = std::any_of(image.remaps.begin(), image.remaps.end(),
                             [&](const auto& remap) { return remap.orig_id() == file.id(); });
  return file.name() + (removed ? " (deleted)" : "");
}

std::string address(uint32_t family, const google::protobuf::RepeatedField<uint32_t>& words,
                    uint32_t port) {
  std::array<uint32_t, 4> bytes{};
  std::copy_n(words.begin(), std::min<int>(words.size(), bytes.size()), bytes.begin());
  std::array<char, INET6_ADDRSTRLEN> text{};
  inet_ntop(static_cast<int>(family), bytes.data(), text.data(), text.size());
  return family == AF_INET6 ? fmt::format("[{}]:{}", text.data(), port)
                            : fmt::format("{}:{}", text.data(), port);
}

OpenFile inet_socket(const image::InetSkEntry& socket) {
  const char* kind = socket.proto() == IPPROTO_TCP   ? "tcp socket"
                     : socket.proto() == IPPROTO_UDP ? "udp socket"
                                                     : "inet socket";
  std::string name = address(socket.family(), socket.src_addr(), socket.src_port());
  if (socket.dst_port() != 0)
    name += " to " + address(socket.family(), socket.dst_addr(), socket.dst_port());
  return {kind, "", name};
}

std::string unix_name(const image::UnixSkEntry& socket) {
  std::string name = socket.name();
  if (!name.empty() && name[0] == '\0') name[0] = '@';
  name.resize(std::min(name.find('\0'), name.size()));
  std::string peer = socket.peer() != 0 ? fmt::format(" to {}", socket.peer()) : "";
  return fmt::format("{}{}", name.empty() ? std::to_string(socket.ino()) : name, peer);
}

std::string memfd_name(const image::Checkpoint& image, uint32_t inode) {
  for (const image::MemfdInodeEntry& entry : image.memfds)
    if (entry.inode_id() == inode) return entry.name();
  return {};
}

std::string watched(const image::EventpollFileEntry& epoll) {
  std::vector<uint32_t> fds;
  for (const image::EventpollTfdEntry& target : epoll.tfd()) fds.push_back(target.tfd());
  return fds.empty() ? "watches nothing" : fmt::format("watches {}", fmt::join(fds, ","));
}

}  // namespace

OpenFile describe(const image::Checkpoint& image, const FileEntry& file) {
  const Message* details = image::file_details(file);
  if (!details) return {"unknown", "", ""};
  std::string access = access_of(*details);
  switch (file.type()) {
    case image::REG:
      return {kind_of(file.reg()), access, regular_name(image, file.reg())};
    case image::PIPE:
      return {"pipe", access, fmt::format("pipe:[{}]", file.pipe().pipe_id())};
    case image::FIFO:
      return {"fifo", access, path_of(image, file.fifo().regf_id())};
    case image::INETSK:
      return inet_socket(file.isk());
    case image::UNIXSK:
      return {"unix socket", "", unix_name(file.usk())};
    case image::NETLINKSK:
      return {"netlink socket", "", fmt::format("protocol {}", file.nlsk().protocol())};
    case image::PACKETSK:
      return {"packet socket", "", fmt::format("interface {}", file.psk().ifindex())};
    case image::EVENTFD:
      return {"eventfd", "", fmt::format("counter {}", file.efd().counter())};
    case image::EVENTPOLL:
      return {"epoll", "", watched(file.epfd())};
    case image::SIGNALFD:
      return {"signalfd", "", fmt::format("signals {:#x}", file.sgfd().mask())};
    case image::TIMERFD:
      return {"timerfd", "", fmt::format("clock {}", file.tfd().clockid())};
    case image::INOTIFY:
      return {"inotify", "", fmt::format("{} watches", file.ify().wd_size())};
    case image::FANOTIFY:
      return {"fanotify", "", fmt::format("{} marks", file.ffy().mark_size())};
    case image::TTY:
      return {"terminal", access, path_of(image, file.tty().regf_id())};
    case image::MEMFD:
      return {"memfd", access, memfd_name(image, file.memfd().inode_id())};
    case image::PIDFD:
      return {"pidfd", "", fmt::format("process {}", file.pidfd().nspid())};
    case image::NS:
      return {"namespace", "", fmt::format("namespace {}", file.nsf().ns_id())};
    case image::TUNF:
      return {"tun", "", file.tunf().netdev()};
    case image::BPFMAP:
      return {"bpf map", access, file.bpf().map_name()};
    case image::EXT:
    case image::UND:
      break;
  }
  return {"unknown", access, ""};
}

}  // namespace stasis::cli
