// Files without a name: deleted ones that are still open go into the image as
// ghosts and are made again, opened and unlinked at once.
#pragma once

#include <cstdint>

#include "fdinfo.pb.h"
#include "fs.pb.h"

namespace stasis::engine::files {

class Dumper;
class Restorer;
struct OpenFile;

// Writes the content once per file and says that it stands in for entry `id`.
void dump_ghost(Dumper& dumper, const OpenFile& file, uint32_t id);

// The O_PATH descriptor (kept by the Restorer) of what stands in for `file`.
int stand_in(Restorer& restorer, const image::RegFileEntry& file,
             const image::RemapFilePathEntry& remap);

}  // namespace stasis::engine::files
