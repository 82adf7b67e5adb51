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

// Those of an epoll that no task has, as it waits in the queue of a socket: put
// in by the numbers of a task that has what it watches.
void watch_in_flight(Restorer& restorer, uint32_t id);

}  // namespace stasis::engine::files
