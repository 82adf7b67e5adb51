// What waits in a pipe or a named pipe.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace stasis::image {
class ImageWriter;
}

namespace stasis::engine::files {

class Restorer;
struct OpenFile;

// Copies what waits in the pipes and named pipes among `files`, without taking
// it out, into pipes-data.img and fifo-data.img.
void dump_contents(image::ImageWriter& writer, const std::vector<std::unique_ptr<OpenFile>>& files);

// Sets the capacity and refills. Packets come back as packets if `writer` is
// open with O_DIRECT.
void refill_pipe(Restorer& restorer, bool named, uint32_t pipe_id, int writer);

}  // namespace stasis::engine::files
