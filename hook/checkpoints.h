// Checkpoints that annotations name. Annotations are input of strangers: they lead
// to what root alone has written, below the policy's roots, and nowhere else.
#pragma once

#include <string>

#include "base/unique_fd.h"
#include "mountmap/policy.h"

namespace stasis::hook {

// The checkpoint's directory or archive, by a name below one of the policy's roots or (where
// the policy allows) by an absolute path. Throws Error.
UniqueFd open_checkpoint(const std::string& name, const mountmap::Policy& policy);

bool is_archive(int checkpoint);

// Where a checkpoint of that name is, or is to be made: absolute. The way there is
// root's, as far as it exists. Throws Error.
std::string checkpoint_place(const std::string& name, const mountmap::Policy& policy);

}  // namespace stasis::hook
