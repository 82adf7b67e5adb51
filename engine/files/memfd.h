// Memory files (memfd_create): what others need of them.
#pragma once

#include <cstdint>
#include <optional>

#include "base/unique_fd.h"
#include "engine/files/probe.h"
#include "fdinfo.pb.h"

namespace stasis::engine::files {

class Restorer;

// Whether it is one, and what memfd_create() needs to make another of the same
// file system (that of huge pages, or none of these flags).
std::optional<uint32_t> memory_file(const Probe& probe);

// A mapping of it needs no open file of its own where it may use the first.
UniqueFd open_memory(Restorer& restorer, const image::MemfdFileEntry& entry, uint32_t flags);

// Seals forbid what the restore itself still has to do: last of all.
void seal_memory(Restorer& restorer);

}  // namespace stasis::engine::files
