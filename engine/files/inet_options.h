// The options that internet sockets have beside SOL_SOCKET's.
#pragma once

#include <cstdint>

#include "sockets.pb.h"

namespace stasis::engine::files {

// Those that are a number each.
uint32_t get_option(int fd, int level, int option);
void set_option(int fd, int level, int option, uint32_t value);

void dump_inet_options(int fd, image::InetSkEntry& entry);

// Those that must be there before a socket is bound.
void restore_binding_options(int fd, const image::InetSkEntry& entry);
void restore_inet_options(int fd, const image::InetSkEntry& entry);

}  // namespace stasis::engine::files
