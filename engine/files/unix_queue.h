// What waits in unix sockets to be read, with the files that travel along.
#pragma once

#include <sys/socket.h>

#include <map>
#include <string_view>

#include "engine/files/socket_queue.h"
#include "unix_more.pb.h"

namespace stasis::engine::files {

class Dumper;
class Restorer;
struct OpenFile;

// Copies without taking out; what travels along becomes files of the dump.
void dump_unix_queue(Dumper& dumper, const OpenFile& file);

// Sends one packet by `sender`: to its peer, or to `address`.
struct Sending {
  int sender;
  std::string_view address;
  const image::UnixPacketEntry& more;
  const std::map<pid_t, pid_t>& tasks;  // pid in the container -> pid in ours
};
void send_packet(Restorer& restorer, const SocketPacket& packet, const Sending& how);

}  // namespace stasis::engine::files
