// Files that are opened by a path: what several kinds need of them.
#pragma once

#include <sys/stat.h>

#include <optional>

#include "base/unique_fd.h"
#include "engine/files/file_kind.h"

namespace stasis::engine::files {

std::optional<Objection> regular_objection(const Probe& probe, const Surroundings& around);

// Fills `entry`; a file without a name goes into the image as a ghost.
void describe_path(Dumper& dumper, const OpenFile& file, image::RegFileEntry& entry, uint32_t id);

// Throws Error where the file at its path is another than it was: of another type, mode
// or size. `type` as below.
void check_same(const image::RegFileEntry& entry, const struct statx& stat, mode_t type);

// The file by its path beneath the container's root, or what stands in for it:
// an O_PATH descriptor. Checks that it is what it was; `type` is S_IFIFO for
// named pipes, 0 for all that can be opened without waiting.
UniqueFd find_path(Restorer& restorer, const image::RegFileEntry& entry, mode_t type);

// Opens it with `flags`, without setting a position or owner.
UniqueFd open_path(Restorer& restorer, const image::RegFileEntry& entry, uint32_t flags);

}  // namespace stasis::engine::files
