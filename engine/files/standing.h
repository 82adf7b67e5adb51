// Whether an open file can be found again by the name it is open under.
#pragma once

#include <optional>
#include <string>

#include "engine/files/file_kind.h"
#include "engine/files/probe.h"

namespace stasis::engine::files {

struct Standing {
  std::string name;             // path within the container, without " (deleted)"
  int mount = 0;                // that it is found on
  std::optional<pid_t> dead{};  // process that has ended, of whose /proc files it is one
  bool outside = false;         // it lies in no mount of the container
  bool ghost = false;           // it has no name any more: its content must go into the image
  std::optional<Objection> objection;
};

Standing standing_of(const Probe& probe, const Surroundings& around);

// Where a mapped file was told by the path of a layer of the root, the probe is
// made to tell what the container sees.
void tell_inside(Probe& probe, const Surroundings& around);

// Their servers may be frozen, or far away: never asked for anything.
bool is_remote(const std::string& fstype);

// The root task's / as an O_PATH descriptor. Throws Error where paths inside
// the container could not be told.
UniqueFd open_container_root(const DumpPlan& plan);

}  // namespace stasis::engine::files
