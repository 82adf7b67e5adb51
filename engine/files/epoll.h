// What an epoll watches is put in by the task itself, by its own descriptor
// numbers, when these are in place.
#pragma once

#include <map>
#include <vector>

#include "engine/files/restorer.h"

namespace stasis::engine::files {

// The watches of all epolls, by the task that is to put them in: the first that
// has all descriptors that are watched. Throws where none has.
std::map<const image::TaskImage*, std::vector<Restorer::Watch>> epoll_watches(
    const Restorer& restorer);

}  // namespace stasis::engine::files
