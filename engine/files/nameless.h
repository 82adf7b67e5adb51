// Files without a name: deleted ones that are still open go into the image as
// ghosts and are made again, opened and unlinked at once.
#pragma once

#include <cstdint>
#include <string>

#include "fs.pb.h"

namespace stasis::engine::files {

class Dumper;
class Restorer;
struct OpenFile;

// Writes the content once per file and says that it stands in for entry `id`.
void dump_ghost(Dumper& dumper, const OpenFile& file, uint32_t id);

// The O_PATH descriptor (kept by the Restorer) of what stands in for `name`.
int stand_in(Restorer& restorer, const std::string& name, const image::RemapFilePathEntry& remap);

}  // namespace stasis::engine::files
