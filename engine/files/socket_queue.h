// What waits in a socket to be read: sk-queues.img.
#pragma once

#include <string>
#include <vector>

#include "sockets.pb.h"

namespace stasis::image {
class ImageDir;
}  // namespace stasis::image

namespace stasis::engine::files {

struct SocketPacket {
  image::SkPacketEntry entry;
  std::string bytes;
};
std::vector<SocketPacket> read_socket_queues(const image::ImageDir& dir);

}  // namespace stasis::engine::files
