#include "engine/files/socket_queue.h"

#include "engine/image/image.h"

namespace stasis::engine::files {

std::vector<SocketPacket> read_socket_queues(const image::ImageDir& dir) {
  std::vector<SocketPacket> packets;
  if (!dir.has("sk-queues")) return packets;
  image::Reader reader = dir.read("sk-queues");
  for (image::SkPacketEntry entry; reader.next(entry);)
    packets.push_back({entry, std::string(reader.payload(entry.length()))});
  return packets;
}

}  // namespace stasis::engine::files
