// Never more than config.json gives, and never less confined than at the checkpoint.
#pragma once

#include <sys/types.h>

#include <string>

#include "base/log.h"
#include "engine/image/checkpoint.h"
#include "oci/config.h"

namespace stasis::hook {

// An image is code with the privileges that it names; the kernel would refuse
// what the new container hasn't, but late. Throws Error.
void check_privileges(const image::Checkpoint& checkpoint, const oci::Config& config);

// The label that a security module (AppArmor, SELinux) has given to the process;
// empty: none.
std::string label_of(pid_t pid);

// All processes get the container's label, which its config.json names. Tells where
// that is another than they had; throws Error where they had one and get none.
void check_label(const image::Checkpoint& checkpoint, const std::string& label, Log& log);

}  // namespace stasis::hook
