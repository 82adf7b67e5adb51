// Addresses and routes of loopback and of the links that are made again, and routing
// rules: ifaddr-, route-, route6- and rule-ID.img, as "ip addr|route|rule save" writes
// them. The calling thread is in the network namespace.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "engine/image/checkpoint.h"

namespace stasis::engine::net {

// Writes what isn't as the kernel makes it. Routes by other links are left to
// who cares for the links. Throws for a route that can't be made again.
// `links`: their indexes, as link_indexes() tells.
void dump_routes(bool loopback_is_up, const std::set<uint32_t>& links, uint32_t ns_id,
                 image::ImageWriter& writer);

// Makes addresses those of the image, and adds its routes, as far as they are of these
// links. Images that aren't there change nothing.
void restore_routes(const image::Checkpoint& checkpoint, const std::set<uint32_t>& links);

// Makes rules those of the image, if it has any.
void restore_rules(const image::Checkpoint& checkpoint);

// Checks the messages of one of these images, and gives them.
std::vector<std::string> parse_saved(std::string_view stem, std::string_view bytes);

}  // namespace stasis::engine::net
