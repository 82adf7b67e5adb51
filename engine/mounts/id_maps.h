// Id-mapped mounts: owners of the host's files show as others in the container.
// Only a mount of the host's can be made so again; its maps are in stasis.img.
#pragma once

#include "engine/mounts/tree.h"
#include "engine/plan.h"
#include "ns.pb.h"
#include "stasis.pb.h"

namespace stasis::engine::mounts {

// Of all external mounts of the tree that have maps. Throws Error where a mount
// could not be made again as it is.
std::vector<image::MountIdMap> find_id_maps(const DumpPlan& plan, const Tree& tree);

// Gives `mount`, a detached copy of what stands at `source` (O_PATH), the maps of
// the record; a source that has them already is as good, one with others refused.
void restore_id_map(const image::MountIdMap& record, int mount, int source,
                    const std::string& name);

}  // namespace stasis::engine::mounts
