// Open files, descriptors, and what they refer to.
#include <fcntl.h>
#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <unordered_set>

#include "engine/image/check.h"

namespace stasis::image {
namespace {

using google::protobuf::Message;

constexpr uint32_t descriptor_limit = 1u << 30;
constexpr uint32_t pipe_limit = 1u << 31;

// Errors about an open file name it by its id, by which the others know it.
template <typename... Args>
void expect_file(bool holds, uint32_t id, fmt::format_string<Args...> format, Args&&... args) {
  if (!holds)
    throw bad_image(
        "files", -1,
        fmt::format("file {}: ", id) + fmt::format(format, std::forward<Args>(args)...));
}

uint32_t inner_id(const Message& details) {
  const auto* field = details.GetDescriptor()->FindFieldByName("id");
  return details.GetReflection()->GetUInt32(details, field);
}

bool is_regular(const Checkpoint& image, uint32_t id) {
  auto found = image.files.find(id);
  return found != image.files.end() && found->second.type() == REG;
}

// Where the mount tables are part of the image, a file's mount must be in one.
void check_mount_of(const Checkpoint& image, uint32_t id, int32_t mount) {
  if (mount <= 0 || image.mounts.empty()) return;
  bool known = std::any_of(image.mounts.begin(), image.mounts.end(), [&](const auto& table) {
    return std::any_of(table.second.begin(), table.second.end(), [&](const MntEntry& entry) {
      return entry.mnt_id() == static_cast<uint32_t>(mount);
    });
  });
  expect_file(known, id, "mnt_id {} is not in mountpoints-*.img", mount);
}

void check_regular(const Checkpoint& image, const RegFileEntry& file) {
  expect_file(!file.name().empty(), file.id(), "has no name");
  expect_file(file.ext() || is_clean_path(file.name()), file.id(), "name {} is no clean path",
              file.name());
  expect_file(file.pos() <= INT64_MAX, file.id(), "pos {}", file.pos());
  if (file.has_mnt_id()) check_mount_of(image, file.id(), file.mnt_id());
}

template <typename List, typename Id>
bool has_id(const List& list, Id id) {
  return std::any_of(list.begin(), list.end(), [&](const auto& entry) { return id(entry); });
}

void check_unix(const Checkpoint& image, const UnixSkEntry& socket) {
  constexpr size_t longest_name = 108;  // sun_path
  uint32_t id = socket.id(), type = socket.type();
  const std::string& name = socket.name();
  expect_file(type == 1 || type == 2 || type == 5, id, "type {}", type);  // SOCK_STREAM ...
  expect_file(socket.shutdown() <= BOTH, id, "shutdown {}", static_cast<int>(socket.shutdown()));
  expect_file(name.size() <= longest_name, id, "a name of {} bytes", name.size());
  expect_file(!socket.has_name_dir() || is_clean_path(socket.name_dir()), id,
              "name_dir {} is no clean path", socket.name_dir());
  expect_file(!socket.deleted() || (!name.empty() && name[0] != '\0'), id,
              "is deleted without a path");
  if (socket.has_file_perms())
    expect_file(socket.file_perms().mode() <= 0177777, id, "mode {:o}", socket.file_perms().mode());
  check_mount_of(image, id, socket.mnt_id());
}

// States that a TCP socket can be found in, as the kernel numbers them.
constexpr uint32_t tcp_closed = 7, tcp_listening = 10;
bool is_tcp_state(uint32_t state) {
  for (uint32_t known : {1U, 2U, 4U, 5U, tcp_closed, 8U, 9U, tcp_listening, 11U})
    if (state == known) return true;
  return false;
}

void check_stream(const Checkpoint& image, const InetSkEntry& socket) {
  auto found = image.streams.find(socket.ino());
  expect_file(found != image.streams.end(), socket.id(), "has no tcp-stream-{:x}.img",
              socket.ino());
  const TcpStreamEntry& stream = found->second.entry;
  expect_file(stream.unsq_len() <= stream.outq_len(), socket.id(), "unsq_len {} of {}",
              stream.unsq_len(), stream.outq_len());
  expect_file(stream.snd_wscale() <= 14 && stream.rcv_wscale() <= 14, socket.id(),
              "a window scale above 14");
  expect_file(stream.mss_clamp() <= UINT16_MAX, socket.id(), "mss_clamp {}", stream.mss_clamp());
}

void check_inet(const Checkpoint& image, const InetSkEntry& socket) {
  constexpr uint32_t four = 2, six = 10;   // AF_INET, AF_INET6
  constexpr uint32_t stream = 1, tcp = 6;  // SOCK_STREAM, IPPROTO_TCP
  constexpr int filter_limit = 4096;       // BPF_MAXINSNS
  uint32_t id = socket.id();
  expect_file(socket.family() == four || socket.family() == six, id, "family {}", socket.family());
  expect_file(socket.type() >= stream && socket.type() <= 3, id, "type {}", socket.type());
  expect_file((socket.type() == stream) <= (socket.proto() == tcp), id, "protocol {} of a stream",
              socket.proto());
  expect_file(socket.src_port() <= UINT16_MAX && socket.dst_port() <= UINT16_MAX, id,
              "ports {} and {}", socket.src_port(), socket.dst_port());
  // IPv4 addresses of old images have four words, too.
  int words = socket.family() == six ? 4 : 1;
  expect_file(socket.src_addr_size() >= words && socket.dst_addr_size() >= words &&
                  socket.src_addr_size() <= 4 && socket.dst_addr_size() <= 4,
              id, "addresses of {} and {} words", socket.src_addr_size(), socket.dst_addr_size());
  expect_file(socket.opts().so_filter_size() <= filter_limit, id, "a filter of {} instructions",
              socket.opts().so_filter_size());
  if (socket.type() != stream) return;
  expect_file(is_tcp_state(socket.state()), id, "state {}", socket.state());
  expect_file(
      socket.state() == tcp_closed || socket.state() == tcp_listening || socket.dst_port() != 0, id,
      "state {} without another end", socket.state());
  if (socket.dst_port() != 0 && !image.inventory.tcp_close()) check_stream(image, socket);
}

void check_packet(const PacketSockEntry& socket) {
  constexpr uint64_t ring_limit = 1u << 30;
  constexpr size_t address_limit = 32;  // MAX_ADDR_LEN
  for (const PacketRing* ring : {&socket.rx_ring(), &socket.tx_ring()})
    expect_file(uint64_t{ring->block_size()} * ring->block_nr() <= ring_limit, socket.id(),
                "a ring of {} blocks of {} bytes", ring->block_nr(), ring->block_size());
  for (const PacketMclist& membership : socket.mclist())
    expect_file(membership.addr().size() <= address_limit, socket.id(), "an address of {} bytes",
                membership.addr().size());
}

void check_kind(const Checkpoint& image, const FileEntry& file) {
  uint32_t id = file.id();
  switch (file.type()) {
    case REG:
      return check_regular(image, file.reg());
    case UNIXSK:
      return check_unix(image, file.usk());
    case FIFO:
      return expect_file(is_regular(image, file.fifo().regf_id()), id,
                         "regf_id {} is no regular file", file.fifo().regf_id());
    case TTY: {
      const TtyFileEntry& tty = file.tty();
      auto same = [&](const TtyInfoEntry& entry) { return entry.id() == tty.tty_info_id(); };
      expect_file(has_id(image.terminals, same), id, "tty_info_id {} is not in tty-info.img",
                  tty.tty_info_id());
      return expect_file(!tty.has_regf_id() || is_regular(image, tty.regf_id()), id,
                         "regf_id {} is no regular file", tty.regf_id());
    }
    case MEMFD: {
      uint32_t inode = file.memfd().inode_id();
      auto same = [&](const MemfdInodeEntry& entry) { return entry.inode_id() == inode; };
      return expect_file(has_id(image.memfds, same), id, "inode_id {} is not in memfd.img", inode);
    }
    case TIMERFD:
      return expect_file(file.tfd().vnsec() < nsec_per_sec && file.tfd().insec() < nsec_per_sec, id,
                         "a billion nanoseconds or more");
    case INOTIFY:
      for (const InotifyWdEntry& watch : file.ify().wd()) {
        const FhEntry& place = watch.f_handle();
        expect_file(watch.wd() > 0 && watch.wd() <= INT32_MAX, id, "watch {}", watch.wd());
        expect_file(!place.has_path() || is_clean_path(place.path()), id,
                    "watches {}, which is no clean path", place.path());
      }
      return;
    case PIDFD:
      return expect_file(file.pidfd().nspid() == -1 || file.pidfd().nspid() > 0, id,
                         "pidfd of process {}", file.pidfd().nspid());
    case EVENTPOLL:
      for (const EventpollTfdEntry& target : file.epfd().tfd())
        expect_file(target.tfd() < descriptor_limit, id, "watches descriptor {}", target.tfd());
      return;
    case PACKETSK:
      return check_packet(file.psk());
    case NETLINKSK:
      return expect_file(file.nlsk().groups_size() <= 32 && file.nlsk().dst_group() <= 32, id,
                         "more groups than there are");
    case INETSK:
      return check_inet(image, file.isk());
    default:
      return;
  }
}

void check_pipe_data(const char* stem, const std::vector<PipeData>& pipes) {
  std::unordered_set<uint32_t> ids;
  for (size_t i = 0; i < pipes.size(); ++i) {
    const PipeDataEntry& entry = pipes[i].entry;
    auto at = static_cast<int64_t>(i);
    expect(ids.insert(entry.pipe_id()).second, stem, at, "pipe_id {} again", entry.pipe_id());
    expect(entry.size() <= pipe_limit, stem, at, "size {}", entry.size());
    expect(!entry.has_size() || entry.size() == 0 || entry.bytes() <= entry.size(), stem, at,
           "{} bytes in a pipe of {}", entry.bytes(), entry.size());
  }
}

// What waits in sockets, and the files that travel along.
void check_queues(const Checkpoint& image) {
  constexpr int most_rights = 253;  // SCM_MAX_FD
  constexpr uint32_t scm_rights = 1;
  if (!image.dir.has("sk-queues")) return;
  Reader reader = image.dir.read("sk-queues");
  int64_t at = 0;
  for (SkPacketEntry packet; reader.next(packet); ++at) {
    reader.payload(packet.length());
    expect(image.files.count(packet.id_for()) > 0, "sk-queues", at, "id_for {} is not in files.img",
           packet.id_for());
    int rights = 0;
    for (const ScmEntry& scm : packet.scm()) {
      expect(scm.type() == scm_rights, "sk-queues", at, "scm of type {}", scm.type());
      rights += scm.rights_size();
      for (uint32_t id : scm.rights())
        expect(image.files.count(id) > 0, "sk-queues", at, "file {} is not in files.img", id);
    }
    expect(rights <= most_rights, "sk-queues", at, "{} files with one packet", rights);
  }
}

void check_remaps(const Checkpoint& image) {
  constexpr uint32_t ghost_bit = 1u << 31;  // how old images mark a ghost
  for (size_t i = 0; i < image.remaps.size(); ++i) {
    const RemapFilePathEntry& remap = image.remaps[i];
    auto at = static_cast<int64_t>(i);
    expect(image.files.count(remap.orig_id()) > 0, "remap-fpath", at,
           "orig_id {} is not in files.img", remap.orig_id());
    bool is_old = !remap.has_remap_type();
    if (is_old ? (remap.remap_id() & ghost_bit) != 0 : remap.remap_type() == GHOST) {
      std::string ghost = fmt::format("ghost-file-{:x}", remap.remap_id() & ~ghost_bit);
      expect(image.dir.has(ghost), "remap-fpath", at, "{}.img is missing", ghost);
    } else if (is_old || remap.remap_type() == LINKED) {
      expect(is_regular(image, remap.remap_id()), "remap-fpath", at,
             "remap_id {} is no regular file", remap.remap_id());
    } else {
      constexpr uint32_t highest_pid = 1u << 22;
      expect(remap.remap_id() > 0 && remap.remap_id() < highest_pid, "remap-fpath", at,
             "remap_id {} is no process", remap.remap_id());
    }
  }
}

void check_memfds(const Checkpoint& image) {
  constexpr uint32_t known_seals = 0x3f;
  constexpr size_t longest_name = 249;  // memfd_create()'s
  std::unordered_set<uint64_t> ids;
  for (size_t i = 0; i < image.memfds.size(); ++i) {
    const MemfdInodeEntry& memfd = image.memfds[i];
    auto at = static_cast<int64_t>(i);
    expect(ids.insert(memfd.inode_id()).second, "memfd", at, "inode_id {} again", memfd.inode_id());
    expect(memfd.name().size() <= longest_name && memfd.name().find('\0') == std::string::npos,
           "memfd", at, "a name that no memory file can have");
    expect(memfd.size() <= INT64_MAX, "memfd", at, "size {}", memfd.size());
    expect((memfd.seals() & ~known_seals) == 0, "memfd", at, "seals {:#x}", memfd.seals());
    expect(memfd.hugetlb_flag() == 0, "memfd", at, "huge pages are not supported yet");
  }
}

void check_lock_holder(const Checkpoint& image, const FileLockEntry& lock, int64_t at) {
  for (const TaskImage& task : image.tasks) {
    if (static_cast<int64_t>(task.tree.pid()) != lock.pid()) continue;
    auto same = [&](const FdinfoEntry& fd) { return fd.fd() == static_cast<uint32_t>(lock.fd()); };
    auto fd = std::find_if(task.fds.begin(), task.fds.end(), same);
    expect(fd != task.fds.end(), "filelocks", at, "process {} has no descriptor {}", lock.pid(),
           lock.fd());
    expect(lock.flag() != lock_lease || is_regular(image, fd->id()), "filelocks", at,
           "a lease on what is no regular file");
  }
}

void check_locks(const Checkpoint& image) {
  for (size_t i = 0; i < image.locks.size(); ++i) {
    const FileLockEntry& lock = image.locks[i];
    auto owner = [&](const TaskImage& task) {
      return static_cast<int64_t>(task.tree.pid()) == lock.pid();
    };
    expect(has_id(image.tasks, owner), "filelocks", static_cast<int64_t>(i),
           "pid {} is not in pstree.img", lock.pid());
    auto at = static_cast<int64_t>(i);
    expect(lock.fd() >= 0 && lock.start() >= 0 && lock.len() >= 0 &&
               lock.len() <= INT64_MAX - lock.start(),
           "filelocks", at, "fd {}, start {}, length {}", lock.fd(), lock.start(), lock.len());
    bool lease = lock.flag() == lock_lease;
    expect(
        lease || lock.flag() == lock_posix || lock.flag() == lock_flock || lock.flag() == lock_ofd,
        "filelocks", at, "flag {}", lock.flag());
    uint32_t type = lock.type() & ~(lease ? lease_breaking : 0);
    expect(type == F_RDLCK || type == F_WRLCK || (lease && type == F_UNLCK), "filelocks", at,
           "type {}", lock.type());
    check_lock_holder(image, lock, at);
  }
}

}  // namespace

bool is_clean_path(std::string_view path) {
  if (path.empty() || path.front() != '/') return false;
  std::string slashed = std::string(path) + "/";
  return slashed.find("/../") == std::string::npos;
}

void check_files(const Checkpoint& image) {
  for (const auto& [id, file] : image.files) {
    const Message* details = file_details(file);
    expect_file(details != nullptr, id, "is a {} without details of one",
                FdTypes_Name(file.type()));
    expect_file(inner_id(*details) == id, id, "has id {} inside", inner_id(*details));
    check_kind(image, file);
  }
  check_pipe_data("pipes-data", image.pipes);
  check_pipe_data("fifo-data", image.fifos);
  check_queues(image);
  check_remaps(image);
  check_memfds(image);
  check_locks(image);
}

void check_descriptors(const Checkpoint& image, const TaskImage& task) {
  std::string stem = stem_of("fdinfo", task.ids.files_id());
  std::unordered_set<uint32_t> seen;
  for (size_t i = 0; i < task.fds.size(); ++i) {
    const FdinfoEntry& fd = task.fds[i];
    auto at = static_cast<int64_t>(i);
    expect(fd.fd() < descriptor_limit, stem, at, "fd {}", fd.fd());
    expect(seen.insert(fd.fd()).second, stem, at, "fd {} again", fd.fd());
    auto file = image.files.find(fd.id());
    expect(file != image.files.end(), stem, at, "fd {}: file {} is not in files.img", fd.fd(),
           fd.id());
    expect(file->second.type() == fd.type(), stem, at, "fd {}: file {} is a {}, not a {}", fd.fd(),
           fd.id(), FdTypes_Name(file->second.type()), FdTypes_Name(fd.type()));
  }
  stem = stem_of("fs", task.tree.pid());
  expect(is_regular(image, task.fs.cwd_id()), stem, -1, "cwd_id {} is no file in files.img",
         task.fs.cwd_id());
  expect(is_regular(image, task.fs.root_id()), stem, -1, "root_id {} is no file in files.img",
         task.fs.root_id());
  expect(task.fs.umask() <= 0777, stem, -1, "umask {:o}", task.fs.umask());
}

}  // namespace stasis::image
