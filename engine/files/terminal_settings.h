// How a terminal is set up: what stty shows, its size, its modes.
#pragma once

#include "tty.pb.h"

namespace stasis::engine::files {

struct Probe;

// Of an open file of it that isn't hung up; throws Error where it is driven in a
// way that can't be made again.
void dump_settings(int fd, bool master, const Probe& probe, image::TtyInfoEntry& info);

void restore_settings(int fd, const image::TtyInfoEntry& info);
// Last: what is locked can't be changed any more.
void lock_settings(int fd, const image::TtyInfoEntry& info);

}  // namespace stasis::engine::files
