// Checkpoints in one file, as `podman container checkpoint --export`, and CRI-O and
// containerd for Kubernetes make them: tar, as it is or compressed with gzip or zstd;
// or an image that holds one (image_archive.h). For a start the images in it, and the
// container's files beside them (container_files.h), are unpacked into a directory that
// nobody but root can look into.
#pragma once

#include <string>

#include "base/log.h"
#include "base/unique_fd.h"

namespace stasis::hook {

constexpr const char* unpacked_dir = "/var/lib/stasis/unpacked";

// Into PLACE/ID, which is made anew. Throws Error, and leaves nothing then. `log`: of what
// could not be removed in that case.
UniqueFd unpack_checkpoint(int archive, const std::string& name, const std::string& id, Log& log,
                           const std::string& place = unpacked_dir);

// After the start. Nothing where there is none.
void remove_unpacked(const std::string& id, const std::string& place = unpacked_dir);

}  // namespace stasis::hook
