// Images that were saved into one file and hold a checkpoint: an OCI image layout,
// as `ctr image export`, `buildah push oci-archive:` and `skopeo copy` write it, or
// docker's older form (`podman save`). The checkpoint is in a blob:
// - containerd's own checkpoints (`ctr container checkpoint`) have a tar of CRIU's
//   images among what their index lists;
// - an image that was made of a checkpoint's archive has the archive's files as a layer.
#pragma once

#include <set>
#include <string>

#include "engine/mounts/archive_reader.h"

namespace stasis::hook {

// The file itself: a tar, as it is or compressed with gzip or zstd.
engine::mounts::ArchiveReader open_archive(int archive, const std::string& name);

struct CheckpointBlobs {
  std::set<std::string> paths;  // of the tars, within the archive
  bool bare = false;            // they hold images only, not below checkpoint/
};

// By its index.json or manifest.json. Throws Error where there is no telling which it is.
CheckpointBlobs checkpoint_blobs(int archive, const std::string& name);

}  // namespace stasis::hook
