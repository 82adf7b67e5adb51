#include "engine/image/format.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <limits>

#include "cgroup.pb.h"
#include "core.pb.h"
#include "fs.pb.h"
#include "inventory.pb.h"
#include "mnt.pb.h"
#include "netdev.pb.h"
#include "ns.pb.h"
#include "pstree.pb.h"
#include "stasis.pb.h"
#include "stats.pb.h"
#include "unix_more.pb.h"

namespace stasis::image {
namespace {

using google::protobuf::Message;

template <typename M>
const Message* of() {
  return &M::default_instance();
}

template <typename M, auto field>
uint64_t sized_by(const Message& entry) {
  return (static_cast<const M&>(entry).*field)();
}

uint64_t semaphore_bytes(const Message& entry) {
  return (static_cast<const IpcSemEntry&>(entry).nsems() * uint64_t{2} + 7) / 8 * 8;
}

uint64_t tcp_bytes(const Message& entry) {
  const auto& tcp = static_cast<const TcpStreamEntry&>(entry);
  return uint64_t{tcp.inq_len()} + tcp.outq_len();
}

uint64_t segment_bytes(const Message& entry) {
  const auto& segment = static_cast<const IpcShmEntry&>(entry);
  uint64_t size = std::min<uint64_t>(segment.size(), std::numeric_limits<int64_t>::max());
  return segment.in_pagemaps() ? 0 : (size + 3) / 4 * 4;
}

// Magics are CRIU's; the pagemap's head and a message queue's messages are the
// only entries of another type than the rest of their image.
constexpr auto pipe_bytes = sized_by<PipeDataEntry, &PipeDataEntry::bytes>;
constexpr auto packet_bytes = sized_by<SkPacketEntry, &SkPacketEntry::length>;
const Format formats[] = {
    {"inventory", inventory_magic, of<InventoryEntry>},
    {"pstree", 0x50273030, of<PstreeEntry>},
    {"core", 0x55053847, of<CoreEntry>},
    {"ids", 0x54432030, of<TaskKobjIdsEntry>},
    {"mm", 0x57492820, of<MmEntry>},
    {"pagemap", 0x56084025, of<PagemapEntry>, of<PagemapHead>},
    {"pagemap-shmem", 0x56084025, of<PagemapEntry>, of<PagemapHead>},
    {"fdinfo", 0x56213732, of<FdinfoEntry>},
    {"files", 0x56303138, of<FileEntry>},
    {"fs", 0x51403912, of<FsEntry>},
    {"remap-fpath", 0x59133954, of<RemapFilePathEntry>},
    {"ghost-file", 0x52583605, of<GhostFileEntry>},
    {"memfd", 0x48453499, of<MemfdInodeEntry>},
    {"pipes-data", 0x56453709, of<PipeDataEntry>, nullptr, pipe_bytes},
    {"fifo-data", 0x59333054, of<PipeDataEntry>, nullptr, pipe_bytes},
    {"sk-queues", 0x56264026, of<SkPacketEntry>, nullptr, packet_bytes},
    {"tcp-stream", 0x51465506, of<TcpStreamEntry>, nullptr, tcp_bytes},
    {"tty-info", 0x59453036, of<TtyInfoEntry>},
    {"tty-data", 0x59413026, of<TtyDataEntry>},
    {"filelocks", 0x54323616, of<FileLockEntry>},
    {"mountpoints", 0x55563928, of<MntEntry>},
    {"utsns", 0x54473203, of<UtsnsEntry>},
    {"ipcns-var", 0x53115007, of<IpcVarEntry>},
    {"ipcns-shm", 0x46283044, of<IpcShmEntry>, nullptr, segment_bytes},
    {"ipcns-msg", 0x55453737, of<IpcMsgEntry>},
    {"ipcns-sem", 0x59573019, of<IpcSemEntry>, nullptr, semaphore_bytes},
    {"timens", 0x43114433, of<TimensEntry>},
    {"pidns", 0x61157326, of<PidnsEntry>},
    {"userns", 0x55474906, of<UsernsEntry>},
    {"netns", 0x55933752, of<NetnsEntry>},
    {"netdev", 0x57373951, of<NetDeviceEntry>},
    {"cgroup", 0x59383330, of<CgroupEntry>},
    {"seccomp", 0x64413049, of<SeccompEntry>},
    {"stats", 0x57093306, of<StatsEntry>},
    {"stasis", 0x53544153, of<StasisEntry>},         // ours
    {"stasis-unix", 0x53545558, of<UnixMoreEntry>},  // ours
};

constexpr std::string_view raw_names[] = {
    "pages", "tmpfs",    "tmpfs-dev", "ifaddr",   "route",    "route6",
    "rule",  "iptables", "ip6tables", "nftables", "netns-ct", "netns-exp",
};

// The stem itself, else without its last "-ID".
template <typename Find>
auto by_stem(std::string_view stem, Find find) {
  auto found = find(stem);
  if (found) return found;
  size_t dash = stem.rfind('-');
  return dash == std::string_view::npos ? found : find(stem.substr(0, dash));
}

}  // namespace

const Format* format_of(std::string_view stem) {
  return by_stem(stem, [](std::string_view name) -> const Format* {
    const auto* end = std::end(formats);
    const auto* found = std::find_if(std::begin(formats), end,
                                     [&](const Format& format) { return format.name == name; });
    return found == end ? nullptr : found;
  });
}

bool is_raw(std::string_view stem) {
  return by_stem(stem.substr(0, stem.find('.')), [](std::string_view name) {
    return std::find(std::begin(raw_names), std::end(raw_names), name) != std::end(raw_names);
  });
}

uint64_t page_count(const PagemapEntry& entry) {
  return entry.has_nr_pages() ? entry.nr_pages() : entry.compat_nr_pages();
}

void set_page_count(PagemapEntry& entry, uint64_t pages) {
  bool fits = pages <= std::numeric_limits<uint32_t>::max();
  entry.set_compat_nr_pages(fits ? static_cast<uint32_t>(pages) : 0);
  if (fits)
    entry.clear_nr_pages();
  else
    entry.set_nr_pages(pages);
}

bool is_present(const PagemapEntry& entry) {
  if (entry.has_flags()) return (entry.flags() & page_present) != 0;
  return !entry.in_parent();
}

const google::protobuf::Message* file_details(const FileEntry& file) {
  switch (file.type()) {
    case REG:
      return file.has_reg() ? &file.reg() : nullptr;
    case PIPE:
      return file.has_pipe() ? &file.pipe() : nullptr;
    case FIFO:
      return file.has_fifo() ? &file.fifo() : nullptr;
    case INETSK:
      return file.has_isk() ? &file.isk() : nullptr;
    case UNIXSK:
      return file.has_usk() ? &file.usk() : nullptr;
    case EVENTFD:
      return file.has_efd() ? &file.efd() : nullptr;
    case EVENTPOLL:
      return file.has_epfd() ? &file.epfd() : nullptr;
    case INOTIFY:
      return file.has_ify() ? &file.ify() : nullptr;
    case SIGNALFD:
      return file.has_sgfd() ? &file.sgfd() : nullptr;
    case PACKETSK:
      return file.has_psk() ? &file.psk() : nullptr;
    case TTY:
      return file.has_tty() ? &file.tty() : nullptr;
    case FANOTIFY:
      return file.has_ffy() ? &file.ffy() : nullptr;
    case NETLINKSK:
      return file.has_nlsk() ? &file.nlsk() : nullptr;
    case NS:
      return file.has_nsf() ? &file.nsf() : nullptr;
    case TUNF:
      return file.has_tunf() ? &file.tunf() : nullptr;
    case EXT:
      return file.has_ext() ? &file.ext() : nullptr;
    case TIMERFD:
      return file.has_tfd() ? &file.tfd() : nullptr;
    case MEMFD:
      return file.has_memfd() ? &file.memfd() : nullptr;
    case BPFMAP:
      return file.has_bpf() ? &file.bpf() : nullptr;
    case PIDFD:
      return file.has_pidfd() ? &file.pidfd() : nullptr;
    case UND:
      break;
  }
  return nullptr;
}

}  // namespace stasis::image
