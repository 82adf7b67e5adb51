// Opening what we already hold: by descriptor, never by a second look at a path.
#pragma once

#include <string_view>

#include "base/unique_fd.h"

namespace stasis::engine::files {

// The flags that say how a file is open, without those that only concern the
// opening (O_CREAT, O_TRUNC ...) or the descriptor.
uint32_t lasting_flags(uint32_t flags);

// A new open file of what `fd` refers to. Must not be a fifo that could block.
UniqueFd reopen(int fd, uint32_t flags, std::string_view name);
long try_reopen(int fd, uint32_t flags);

UniqueFd duplicate(int fd);

// Lets this process hold as many descriptors as it may: one for every open
// file of a container.
void raise_descriptor_limit();

// F_SETFL of all flags that can be changed later (O_NONBLOCK, O_APPEND, O_DIRECT ...).
void set_status_flags(int fd, uint32_t flags);

}  // namespace stasis::engine::files
