// Watches of inotify: what is left to do when all else is done.
#pragma once

#include <vector>

#include "base/unique_fd.h"
#include "engine/image/checkpoint.h"

namespace stasis::engine::files {

class Restorer;

// One that has yet to be put in.
struct PendingWatch {
  UniqueFd inotify, target;
  const image::InotifyWdEntry* entry;
};

// What they watch, opened while all that takes part in it is held; and the
// watches themselves, once nothing is opened or closed any more: these are
// events, too.
void open_watch_targets(Restorer& restorer);
void set_watches(std::vector<PendingWatch>& watches);

}  // namespace stasis::engine::files
