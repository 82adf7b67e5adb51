// Which network namespace a socket belongs to.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string_view>

#include "engine/files/file_kind.h"

namespace stasis::engine::files {

// Whether our descriptor's socket is one of the network of process `root`.
bool is_in_network_of(int fd, pid_t root);

// What to say of one that isn't; `name` with its article.
Objection foreign_network(std::string_view name, int number);

}  // namespace stasis::engine::files
