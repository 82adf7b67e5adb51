// Restore in place: a container that its runtime has just made, with namespaces,
// mounts, network and cgroups of its own, gets the tasks of an image. Its init,
// at its first program, becomes the dumped one.
#pragma once

#include "base/log.h"
#include "engine/image/checkpoint.h"
#include "engine/plan.h"
#include "engine/tasks/start_hold.h"

namespace stasis::engine {

// Throws for what can't be restored so, whatever the container. What can is made
// to fit this kernel: see fit_vdso().
void check_in_place(image::Checkpoint& checkpoint);

// Follows the init up to its program, with its clocks prepared; false where it
// ends before.
bool follow_to_program(StartHold& hold, const image::Checkpoint& checkpoint, Log& log);

struct InPlacePlan {
  int clone_signal = 0;  // the first thing that the init hears of; 0: none
};

// Then. The runtime's start and the tasks are let go together. When it throws
// the container is to be killed, which ~StartHold does.
RestoreResult restore_in_place(StartHold& hold, const image::Checkpoint& checkpoint,
                               const InPlacePlan& wanted, Log& log);

}  // namespace stasis::engine
