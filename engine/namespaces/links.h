// Network links that a network namespace has beside loopback, as far as all that they are made
// of is in it: dummies, bridges with their ports, pairs of veth, and VLANs and macvlans on
// others. They are written to stasis.img (LinkEntry), as CRIU's images have no place for most.
// The calling thread is in the network namespace.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "base/log.h"
#include "engine/image/checkpoint.h"
#include "engine/plan.h"

namespace stasis::engine::net {

// Those that couldn't be made again.
std::vector<Finding> link_obstacles();

// Without their sysctls. Not loopback, nor the tunnels that the kernel makes in every namespace.
// A link of link_obstacles() is left out and told, where the runtime cares for such; else Error is
// thrown.
std::vector<image::LinkEntry> read_links(bool runtime_cares, Log& log);

using Links = google::protobuf::RepeatedPtrField<image::LinkEntry>;

// As they were. A runtime's hook may have made some of them, which are left alone. Throws Error, or
// bad_image for what read_links() wouldn't have written.
void restore_links(const Links& links, Log& log);

// Of loopback and of these.
std::set<uint32_t> link_indexes(const Links& links);

}  // namespace stasis::engine::net
