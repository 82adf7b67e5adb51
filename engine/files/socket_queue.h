// What waits in a socket to be read: sk-queues.img.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sockets.pb.h"

namespace stasis::image {
class ImageDir;
class ImageWriter;
}  // namespace stasis::image

namespace stasis::engine::files {

class Restorer;

struct SocketPacket {
  image::SkPacketEntry entry;
  std::string bytes;
};
std::vector<SocketPacket> read_socket_queues(const image::ImageDir& dir);

// Copies without taking out. Throws where descriptors or credentials travel in
// the queue.
void dump_socket_queue(image::ImageWriter& writer, int fd, uint32_t id, int type,
                       const std::string& name);

// Sends what waited in file `id` by its peer's descriptor.
void refill_socket(Restorer& restorer, uint32_t id, int receiver, int sender);

}  // namespace stasis::engine::files
