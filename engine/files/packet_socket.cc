// Packet sockets: raw frames of a device. What they hold unread is not kept.
#include <arpa/inet.h>
#include <fmt/core.h>
#include <linux/if_packet.h>
#include <linux/packet_diag.h>
#include <linux/sock_diag.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <cstring>
#include <optional>

#include "engine/files/dumper.h"
#include "engine/files/owner.h"
#include "engine/files/reopen.h"
#include "engine/files/restorer.h"
#include "engine/files/sock_diag.h"
#include "engine/files/socket_network.h"
#include "engine/files/socket_options.h"
#include "kernel/fs.h"
#include "kernel/socket.h"

namespace stasis::engine::files {

namespace {

bool claims(const Probe& probe) { return probe.protocol == "PACKET"; }

std::optional<Objection> objection(const Probe& probe, const Surroundings& around) {
  UniqueFd process = kernel::pidfd_open(probe.pid);
  UniqueFd copy = kernel::pidfd_getfd(process.get(), probe.number);
  if (is_in_network_of(copy.get(), around.plan().root)) return std::nullopt;
  return foreign_network("a packet socket", probe.number);
}

void put_ring(std::string_view value, image::PacketRing& ring) {
  auto told = kernel::value_of<packet_diag_ring>(value);
  ring.set_block_size(told.pdr_block_size);
  ring.set_block_nr(told.pdr_block_nr);
  ring.set_frame_size(told.pdr_frame_size);
  ring.set_frame_nr(told.pdr_frame_nr);
  ring.set_retire_tmo(told.pdr_retire_tmo);
  ring.set_sizeof_priv(told.pdr_sizeof_priv);
  ring.set_features(told.pdr_features);
}

void put_memberships(std::string_view list, image::PacketSockEntry& entry) {
  for (; list.size() >= sizeof(packet_diag_mclist);
       list.remove_prefix(sizeof(packet_diag_mclist))) {
    auto told = kernel::value_of<packet_diag_mclist>(list);
    // Joined more than once it must be left as often.
    for (uint32_t i = 0; i < told.pdmc_count; ++i) {
      image::PacketMclist& membership = *entry.add_mclist();
      membership.set_index(told.pdmc_index);
      membership.set_type(told.pdmc_type);
      size_t size = std::min<size_t>(told.pdmc_alen, sizeof told.pdmc_addr);
      bool by_address =
          told.pdmc_type == PACKET_MR_MULTICAST || told.pdmc_type == PACKET_MR_UNICAST;
      membership.set_addr(told.pdmc_addr, by_address ? size : 0);
    }
  }
}

void put_info(std::string_view value, image::PacketSockEntry& entry) {
  auto told = kernel::value_of<packet_diag_info>(value);
  entry.set_ifindex(told.pdi_index);
  entry.set_version(told.pdi_version);
  entry.set_reserve(told.pdi_reserve);
  entry.set_timestamp(told.pdi_tstamp);
  entry.set_copy_thresh(told.pdi_copy_thresh);
  entry.set_aux_data((told.pdi_flags & PDI_AUXDATA) != 0);
  entry.set_orig_dev((told.pdi_flags & PDI_ORIGDEV) != 0);
  entry.set_vnet_hdr((told.pdi_flags & PDI_VNETHDR) != 0);
  entry.set_loss((told.pdi_flags & PDI_LOSS) != 0);
}

// False where the message is of another socket.
bool take(std::string_view body, uint32_t inode, image::PacketSockEntry& entry) {
  auto head = kernel::value_of<packet_diag_msg>(body);
  if (head.pdiag_ino != inode) return false;
  entry.set_type(head.pdiag_type);
  entry.set_protocol(htons(head.pdiag_num));
  kernel::each_attribute(body.substr(sizeof head), [&](uint16_t type, std::string_view value) {
    if (type == PACKET_DIAG_INFO) put_info(value, entry);
    if (type == PACKET_DIAG_MCLIST) put_memberships(value, entry);
    if (type == PACKET_DIAG_RX_RING) put_ring(value, *entry.mutable_rx_ring());
    if (type == PACKET_DIAG_TX_RING) put_ring(value, *entry.mutable_tx_ring());
    if (type == PACKET_DIAG_FANOUT) entry.set_fanout(kernel::value_of<uint32_t>(value));
  });
  return entry.has_version();
}

void ask(pid_t root, uint32_t inode, image::PacketSockEntry& entry) {
  packet_diag_req request{};
  request.sdiag_family = AF_PACKET;
  request.pdiag_show =
      PACKET_SHOW_INFO | PACKET_SHOW_MCLIST | PACKET_SHOW_RING_CFG | PACKET_SHOW_FANOUT;
  kernel::Messages messages;
  messages.begin(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, kernel::bytes_of(request));
  bool found = false;
  sock_diag(root).list(
      messages, "list", "packet sockets",
      [&](const nlmsghdr&, std::string_view body) { found |= take(body, inode, entry); });
  if (!found) throw Error("dump", "a packet socket").because("the kernel doesn't list it");
}

void dump(Dumper& dumper, const OpenFile& file, image::FileEntry& entry) {
  const int fd = file.fd.get();
  if (!is_in_network_of(fd, dumper.plan().root))
    throw Error("dump", process_name(file.probe.pid))
        .because("it " + foreign_network("a packet socket", file.probe.number).what);
  image::PacketSockEntry& packet = *entry.mutable_psk();
  packet.set_id(file.id);
  packet.set_flags(file.probe.flags());
  packet.set_ns_id(dumper.network_id());
  ask(dumper.plan().root, static_cast<uint32_t>(file.probe.stat.stx_ino), packet);
  *packet.mutable_fown() = dump_owner(fd, file.probe.flags(), dumper.plan().root);
  *packet.mutable_opts() = dump_socket_options(fd);
}

template <typename T>
void set(int fd, int option, const T& value) {
  kernel::set_socket_option(fd, SOL_PACKET, option, value, "set a packet socket's option",
                            std::to_string(option));
}

// The old kind is bound to a device by its name.
void bind_old(int fd, const image::PacketSockEntry& entry) {
  if (entry.ifindex() == 0) return;
  ifreq device{};
  device.ifr_ifindex = static_cast<int>(entry.ifindex());
  kernel::must(kernel::call(SYS_ioctl, fd, SIOCGIFNAME, &device), "find",
               fmt::format("network interface {}", entry.ifindex()));
  sockaddr name{};
  name.sa_family = AF_PACKET;
  memcpy(name.sa_data, device.ifr_name, sizeof name.sa_data - 1);
  kernel::must(kernel::call(SYS_bind, fd, &name, sizeof name), "bind", "a packet socket");
}

void bind_new(int fd, const image::PacketSockEntry& entry) {
  sockaddr_ll name{};
  name.sll_family = AF_PACKET;
  name.sll_ifindex = static_cast<int>(entry.ifindex());
  kernel::must(kernel::call(SYS_bind, fd, &name, sizeof name), "bind",
               fmt::format("a packet socket to network interface {}", entry.ifindex()));
  set(fd, PACKET_VERSION, entry.version());
  set(fd, PACKET_RESERVE, entry.reserve());
  set(fd, PACKET_TIMESTAMP, entry.timestamp());
  set(fd, PACKET_COPY_THRESH, entry.copy_thresh());
  for (auto [option, wanted] : {std::pair{PACKET_AUXDATA, entry.aux_data()},
                                {PACKET_ORIGDEV, entry.orig_dev()},
                                {PACKET_VNET_HDR, entry.vnet_hdr()},
                                {PACKET_LOSS, entry.loss()}})
    if (wanted) set(fd, option, 1);
}

void join(int fd, const image::PacketMclist& membership) {
  struct {
    int index;
    uint16_t type, size;
    uint8_t address[32];  // MAX_ADDR_LEN
  } request{static_cast<int>(membership.index()),
            static_cast<uint16_t>(membership.type()),
            static_cast<uint16_t>(membership.addr().size()),
            {}};
  membership.addr().copy(reinterpret_cast<char*>(request.address), sizeof request.address);
  set(fd, PACKET_ADD_MEMBERSHIP, request);
}

void make_ring(int fd, int option, const image::PacketRing& ring) {
  tpacket_req3 request{};
  request.tp_block_size = ring.block_size();
  request.tp_block_nr = ring.block_nr();
  request.tp_frame_size = ring.frame_size();
  request.tp_frame_nr = ring.frame_nr();
  request.tp_retire_blk_tov = ring.retire_tmo();
  request.tp_sizeof_priv = ring.sizeof_priv();
  request.tp_feature_req_word = ring.features();
  set(fd, option, request);
}

UniqueFd make(Restorer& restorer, const image::FileEntry& file) {
  const image::PacketSockEntry& entry = file.psk();
  UniqueFd fd;
  restorer.in_network([&] {
    long made = kernel::call(SYS_socket, AF_PACKET, entry.type() | SOCK_CLOEXEC, entry.protocol());
    fd.reset(static_cast<int>(kernel::must(made, "make", "a packet socket")));
  });
  if (entry.type() == SOCK_PACKET) {
    bind_old(fd.get(), entry);
  } else {
    bind_new(fd.get(), entry);
    for (const image::PacketMclist& membership : entry.mclist()) join(fd.get(), membership);
    if (entry.has_rx_ring()) make_ring(fd.get(), PACKET_RX_RING, entry.rx_ring());
    if (entry.has_tx_ring()) make_ring(fd.get(), PACKET_TX_RING, entry.tx_ring());
    if (entry.has_fanout()) set(fd.get(), PACKET_FANOUT, entry.fanout());
  }
  restore_socket_options(fd.get(), entry.opts());
  set_status_flags(fd.get(), entry.flags());
  restorer.restore_owner(fd.get(), entry.fown());
  return fd;
}

}  // namespace

const FileKind packet_kind = {"a packet socket", image::PACKETSK, claims, objection, dump, make};

}  // namespace stasis::engine::files
