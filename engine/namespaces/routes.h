// Addresses and routes of loopback, and routing rules: ifaddr-, route-, route6-
// and rule-ID.img, as "ip addr|route|rule save" writes them. The calling thread
// is in the network namespace.
#pragma once

#include "engine/image/checkpoint.h"

namespace stasis::engine::net {

// Writes what isn't as the kernel makes it. Routes by other links are left to
// who cares for the links. Throws for a route that can't be made again.
void dump_routes(bool loopback_is_up, uint32_t ns_id, image::ImageWriter& writer);

// Makes addresses and rules those of the image, and adds its routes. Images
// that aren't there change nothing.
void restore_routes(const image::Checkpoint& checkpoint);

// Checks the messages of one of these images, and gives them.
std::vector<std::string> parse_saved(std::string_view stem, std::string_view bytes);

}  // namespace stasis::engine::net
