// A TCP connection as it stands in the kernel: read out of a socket and put
// into a fresh one by TCP_REPAIR, without the other end noticing.
#pragma once

#include <string>

#include "engine/files/inet_address.h"
#include "sockets.pb.h"

namespace stasis::engine::files {

struct TcpStream {
  int state = 0;  // TCP_ESTABLISHED ...
  image::TcpStreamEntry entry;
  std::string received;  // not read by the program yet
  std::string sent;      // not acknowledged by the other end; the last unsq_len bytes not even sent
};

// What TCP_INFO tells of a socket's state.
struct TcpInfo {
  int state = 0;
  uint8_t options = 0;  // TCPI_OPT_*
  uint8_t send_scale = 0, receive_scale = 0;
  // Of a listening socket: connections not accepted yet, and how many may be.
  uint32_t waiting = 0, backlog = 0;
};
TcpInfo tcp_info(int fd);

// A socket in repair mode can be examined and filled, and is closed without a
// word to the other end. Left when this ends.
class Repair {
 public:
  explicit Repair(int fd);
  Repair(int fd, bool reuseaddr);  // that the socket is to have afterwards
  Repair(Repair&&) noexcept;
  Repair& operator=(Repair&&) = delete;
  ~Repair();
  // Leaves it for good and asks the other end for a sign of life, which makes
  // both go on at once.
  void end();
  // The socket is closed in it.
  void abandon() { fd_ = -1; }

 private:
  long leave(int how);

  int fd_;
  int reuseaddr_;  // leaving repair mode forgets it
};

// While its program stands still. Packets may still come: what is read belongs
// to one moment.
TcpStream read_connection(int fd, const std::string& name);

// Makes the connection in a fresh socket that is in repair mode and stays in it.
// Only packets of ours may reach the socket meanwhile: see connection_hold.h.
void write_connection(int fd, const InetEnds& ends, const TcpStream& stream,
                      const std::string& name);

}  // namespace stasis::engine::files
