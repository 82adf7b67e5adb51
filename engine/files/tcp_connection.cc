#include "engine/files/tcp_connection.h"

#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "engine/files/socket_options.h"
#include "engine/files/tcp_segment.h"
#include "kernel/socket.h"

namespace stasis::engine::files {

namespace {

// linux/tcp.h and netinet/tcp.h exclude one another: states as the kernel numbers them.
enum State {
  established = 1,
  syn_sent = 2,
  fin_wait1 = 4,
  fin_wait2 = 5,
  closed = 7,
  close_wait = 8,
  last_ack = 9,
  closing = 11,
};
constexpr int option_window = 3, option_sack = 4, option_timestamp = 8, option_mss = 2;

template <typename T>
T get(int fd, int option) {
  return kernel::socket_option<T>(fd, IPPROTO_TCP, option, "read the state of", "a TCP connection");
}

template <typename T>
void set(int fd, int option, const T& value, const std::string& name) {
  kernel::set_socket_option(fd, IPPROTO_TCP, option, value, "restore the state of", name);
}

bool get_reuseaddr(int fd) {
  return kernel::socket_option<int>(fd, SOL_SOCKET, SO_REUSEADDR, "read the options of",
                                    "a TCP connection") != 0;
}

uint32_t amount(int fd, unsigned long what) {
  int bytes = 0;
  kernel::must(kernel::call(SYS_ioctl, fd, what, &bytes), "measure the queues of",
               "a TCP connection");
  return static_cast<uint32_t>(bytes);
}

uint32_t sequence(int fd, int queue) {
  set(fd, TCP_REPAIR_QUEUE, queue, "a TCP connection");
  return get<uint32_t>(fd, TCP_QUEUE_SEQ);
}

// The end that says first or second that it has nothing more to send; whether
// the other end has said so; and whether it has confirmed ours.
bool sent_fin_first(int state) {
  return state == fin_wait1 || state == fin_wait2 || state == closing;
}
bool sent_fin_second(int state) { return state == last_ack || state == closed; }
bool sent_fin(int state) { return sent_fin_first(state) || sent_fin_second(state); }
bool received_fin(int state) {
  return state == close_wait || state == last_ack || state == closed || state == closing;
}
bool fin_confirmed(int state) { return state == fin_wait2 || state == closed; }

// All numbers that a packet could change.
struct Numbers {
  int state = 0;
  uint32_t received = 0, sent = 0;       // the queues' sequence numbers
  uint32_t in = 0, out = 0, unsent = 0;  // their bytes
  tcp_repair_window window{};
  bool operator==(const Numbers& other) const {
    return state == other.state && received == other.received && sent == other.sent &&
           in == other.in && out == other.out && unsent == other.unsent &&
           memcmp(&window, &other.window, sizeof window) == 0;
  }
};

Numbers numbers(int fd) {
  Numbers now;
  now.state = tcp_info(fd).state;
  now.received = sequence(fd, TCP_RECV_QUEUE);
  now.sent = sequence(fd, TCP_SEND_QUEUE);
  set(fd, TCP_REPAIR_QUEUE, static_cast<int>(TCP_NO_QUEUE), "a TCP connection");
  now.in = amount(fd, SIOCINQ);
  // Of a connection that was reset nobody will read what was sent.
  if (now.state != closed) {
    now.out = amount(fd, SIOCOUTQ);
    now.unsent = amount(fd, SIOCOUTQNSD);
  }
  now.window = get<tcp_repair_window>(fd, TCP_REPAIR_WINDOW);
  // A FIN counts as a byte, but is none.
  if (sent_fin(now.state)) {
    if (now.out) --now.out;
    if (now.unsent) --now.unsent;
  }
  return now;
}

std::string peek(int fd, int queue, uint32_t bytes, const std::string& name) {
  if (bytes == 0) return {};
  std::string content(size_t{bytes} + 1, '\0');
  set(fd, TCP_REPAIR_QUEUE, queue, name);
  long size = kernel::call(SYS_recvfrom, fd, content.data(), content.size(),
                           MSG_PEEK | MSG_DONTWAIT, nullptr, nullptr);
  set(fd, TCP_REPAIR_QUEUE, static_cast<int>(TCP_NO_QUEUE), name);
  content.resize(static_cast<size_t>(kernel::must(size, "read the queue of", name)));
  return content;
}

void put_numbers(const Numbers& now, const TcpInfo& info, int fd, TcpStream& stream) {
  image::TcpStreamEntry& entry = stream.entry;
  stream.state = now.state;
  entry.set_inq_len(now.in);
  entry.set_inq_seq(now.received);
  entry.set_outq_len(now.out);
  entry.set_outq_seq(now.sent);
  entry.set_unsq_len(now.unsent);
  entry.set_opt_mask(info.options);
  entry.set_mss_clamp(get<uint32_t>(fd, TCP_MAXSEG));  // in repair mode what was agreed upon
  entry.set_snd_wscale(0);
  if (info.options & TCPI_OPT_WSCALE) {
    entry.set_snd_wscale(info.send_scale);
    entry.set_rcv_wscale(info.receive_scale);
  }
  if (info.options & TCPI_OPT_TIMESTAMPS) entry.set_timestamp(get<uint32_t>(fd, TCP_TIMESTAMP));
  entry.set_snd_wl1(now.window.snd_wl1);
  entry.set_snd_wnd(now.window.snd_wnd);
  entry.set_max_window(now.window.max_window);
  entry.set_rcv_wnd(now.window.rcv_wnd);
  entry.set_rcv_wup(now.window.rcv_wup);
}

void set_sequence(int fd, int queue, uint32_t value, const std::string& name) {
  set(fd, TCP_REPAIR_QUEUE, queue, name);
  set(fd, TCP_QUEUE_SEQ, value, name);
}

void agree_on_options(int fd, const image::TcpStreamEntry& entry, const std::string& name) {
  std::vector<tcp_repair_opt> options;
  if (entry.opt_mask() & TCPI_OPT_SACK) options.push_back({option_sack, 0});
  if (entry.opt_mask() & TCPI_OPT_WSCALE)
    options.push_back({option_window, entry.snd_wscale() | entry.rcv_wscale() << 16});
  if (entry.opt_mask() & TCPI_OPT_TIMESTAMPS) options.push_back({option_timestamp, 0});
  options.push_back({option_mss, entry.mss_clamp()});
  kernel::must(kernel::call(SYS_setsockopt, fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, options.data(),
                            options.size() * sizeof options[0]),
               "restore the options of", name);
}

// In repair mode data goes into the queue that was chosen. The kernel wants
// memory in one piece for it, so smaller pieces are tried where there is none.
void fill_queue(int fd, std::string_view bytes, const std::string& name) {
  size_t most = bytes.size();
  while (!bytes.empty()) {
    const void* next = bytes.data();
    long sent = kernel::call(SYS_sendto, fd, next, std::min(bytes.size(), most),
                             MSG_DONTWAIT | MSG_NOSIGNAL, nullptr, 0);
    if (sent <= 0 && most > 1024)
      most /= 2;
    else
      bytes.remove_prefix(static_cast<size_t>(kernel::must(sent, "fill the queue of", name)));
  }
}

void fill_queues(int fd, const TcpStream& stream, const std::string& name) {
  make_room(fd);
  if (!stream.received.empty()) {
    set(fd, TCP_REPAIR_QUEUE, static_cast<int>(TCP_RECV_QUEUE), name);
    fill_queue(fd, stream.received, name);
  }
  std::string_view sent = stream.sent;
  size_t unsent = stream.entry.unsq_len();
  if (sent.size() > unsent) {
    set(fd, TCP_REPAIR_QUEUE, static_cast<int>(TCP_SEND_QUEUE), name);
    fill_queue(fd, sent.substr(0, sent.size() - unsent), name);
  }
  set(fd, TCP_REPAIR_QUEUE, static_cast<int>(TCP_NO_QUEUE), name);
  if (unsent == 0) return;
  // What was never sent is sent like anything else.
  set(fd, TCP_REPAIR, static_cast<int>(TCP_REPAIR_OFF_NO_WP), name);
  fill_queue(fd, sent.substr(sent.size() - unsent), name);
  set(fd, TCP_REPAIR, static_cast<int>(TCP_REPAIR_ON), name);
}

void set_window(int fd, const TcpStream& stream, const std::string& name) {
  const image::TcpStreamEntry& entry = stream.entry;
  if (!entry.has_snd_wnd()) return;
  tcp_repair_window window{entry.snd_wl1(), entry.snd_wnd(), entry.max_window(), entry.rcv_wnd(),
                           entry.rcv_wup()};
  if (received_fin(stream.state)) {  // it comes later
    --window.rcv_wup;
    ++window.rcv_wnd;
  }
  set(fd, TCP_REPAIR_WINDOW, window, name);
}

// Sent with the queue chosen, a FIN counts as one that the other end may have got.
void send_fin(int fd, bool confirmed, const std::string& name) {
  if (confirmed) set(fd, TCP_REPAIR_QUEUE, static_cast<int>(TCP_SEND_QUEUE), name);
  kernel::must(kernel::call(SYS_shutdown, fd, SHUT_WR), "shut down", name);
  if (confirmed) set(fd, TCP_REPAIR_QUEUE, static_cast<int>(TCP_NO_QUEUE), name);
}

// FINs have no place in the queues that repair mode fills: ours is sent as the
// program did it, the other end's comes as a packet that looks like its own.
void exchange_fins(int fd, const InetEnds& ends, const TcpStream& stream, const std::string& name) {
  const int state = stream.state;
  const bool confirmed = fin_confirmed(state);
  Segment segment{
      .from = ends.remote,
      .to = ends.local,
      .sequence = stream.entry.inq_seq() - (received_fin(state) ? 1 : 0),
      .acknowledged = stream.entry.outq_seq() - (sent_fin(state) ? 1 : 0) - stream.entry.outq_len(),
      .window = static_cast<uint16_t>(std::min(stream.entry.rcv_wnd(), 0xffffU))};
  if (sent_fin_first(state)) send_fin(fd, confirmed, name);
  if (received_fin(state)) {
    segment.fin = true;
    send_segment(segment);
    segment.fin = false;
  }
  if (sent_fin_second(state)) send_fin(fd, confirmed, name);
  if (!confirmed) return;
  if (state == closed) ++segment.sequence;
  ++segment.acknowledged;
  send_segment(segment);
}

void connect_to(int fd, const InetEnds& ends, const std::string& name) {
  sockaddr_storage address{};
  socklen_t size = to_sockaddr(ends.remote, address);
  long connected = kernel::call(SYS_connect, fd, &address, size);
  if (connected == -ENETUNREACH)
    throw Error("restore", name)
        .because("no route leads to the other end")
        .hint("give the container the network that it had before it is restored");
  if (connected != -EINPROGRESS) kernel::must(connected, "restore", name);
}

}  // namespace

TcpInfo tcp_info(int fd) {
  auto raw = get<struct tcp_info>(fd, TCP_INFO);
  TcpInfo info;
  info.state = raw.tcpi_state;
  info.options = raw.tcpi_options;
  info.send_scale = raw.tcpi_snd_wscale;
  info.receive_scale = raw.tcpi_rcv_wscale;
  info.waiting = raw.tcpi_unacked;
  info.backlog = raw.tcpi_sacked;
  return info;
}

Repair::Repair(int fd) : Repair(fd, get_reuseaddr(fd)) {}

Repair::Repair(int fd, bool reuseaddr) : fd_(fd), reuseaddr_(reuseaddr) {
  set(fd, TCP_REPAIR, static_cast<int>(TCP_REPAIR_ON), "a TCP connection");
}

Repair::Repair(Repair&& other) noexcept : fd_(other.fd_), reuseaddr_(other.reuseaddr_) {
  other.fd_ = -1;
}

long Repair::leave(int how) {
  long left = kernel::call(SYS_setsockopt, fd_, IPPROTO_TCP, TCP_REPAIR, &how, sizeof how);
  if (left < 0) return left;
  return kernel::call(SYS_setsockopt, fd_, SOL_SOCKET, SO_REUSEADDR, &reuseaddr_,
                      sizeof reuseaddr_);
}

Repair::~Repair() {
  if (fd_ < 0) return;
  if (leave(TCP_REPAIR_OFF_NO_WP) < 0) leave(TCP_REPAIR_OFF_NO_WP);
}

void Repair::end() {
  kernel::must(leave(TCP_REPAIR_OFF), "end the repair of", "a TCP connection");
  fd_ = -1;
}

TcpStream read_connection(int fd, const std::string& name) {
  constexpr int tries = 50;
  for (int i = 0; i < tries; ++i) {
    TcpStream stream;
    Numbers before = numbers(fd);
    put_numbers(before, tcp_info(fd), fd, stream);
    stream.received = peek(fd, TCP_RECV_QUEUE, before.in, name);
    stream.sent = peek(fd, TCP_SEND_QUEUE, before.out, name);
    if (!(numbers(fd) == before)) continue;
    if (stream.received.size() != before.in || stream.sent.size() != before.out)
      throw Error("dump", name).because("its queues hold urgent data");
    return stream;
  }
  throw Error("dump", name).because("packets come faster than it can be read");
}

void write_connection(int fd, const InetEnds& ends, const TcpStream& stream,
                      const std::string& name) {
  const image::TcpStreamEntry& entry = stream.entry;
  uint32_t in = entry.inq_seq() - (received_fin(stream.state) ? 1 : 0);
  uint32_t out = entry.outq_seq() - (sent_fin(stream.state) ? 1 : 0);
  set_sequence(fd, TCP_RECV_QUEUE, in - entry.inq_len(), name);
  const bool asking = stream.state == syn_sent;
  // A connection that is being asked for is asked for again, with the same number.
  set_sequence(fd, TCP_SEND_QUEUE, out - entry.outq_len() - (asking ? 1 : 0), name);
  if (asking) set(fd, TCP_REPAIR, static_cast<int>(TCP_REPAIR_OFF_NO_WP), name);
  // The size of packets is chosen now and, whatever is agreed upon later, kept.
  constexpr uint32_t largest = 32767;  // that the kernel takes
  set(fd, TCP_MAXSEG, std::clamp(entry.mss_clamp(), 88U, largest), name);
  connect_to(fd, ends, name);
  set(fd, TCP_MAXSEG, 0, name);
  if (asking) set(fd, TCP_REPAIR, static_cast<int>(TCP_REPAIR_ON), name);
  if (!asking) agree_on_options(fd, entry, name);
  if (entry.opt_mask() & TCPI_OPT_TIMESTAMPS) set(fd, TCP_TIMESTAMP, entry.timestamp(), name);
  fill_queues(fd, stream, name);
  set_window(fd, stream, name);
  exchange_fins(fd, ends, stream, name);
}

}  // namespace stasis::engine::files
