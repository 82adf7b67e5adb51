// What an epoll watches is put in by the task itself, by its own descriptor
// numbers, when these are in place.
#pragma once

#include <vector>

#include "engine/files/restorer.h"

namespace stasis::engine::files {

// The watches that `task` is the one to put in; throws where no task can.
std::vector<Restorer::Watch> epoll_watches(const Restorer& restorer, const image::TaskImage& task);

}  // namespace stasis::engine::files
