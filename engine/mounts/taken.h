// Mounts of the host's file systems whose data the plan wants in the image:
// they are written down as tmpfs mounts of the container's own.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "engine/mounts/spaces.h"
#include "engine/mounts/tree.h"
#include "engine/plan.h"

namespace stasis::engine::mounts {

// One file system of an image in place of a part of one of the host's.
struct Taken {
  const mountmap::Mount* mount = nullptr;  // that shows all of it
  uint32_t device = 0;                     // in the image; stands for no live one
  bool directory = true;                   // otherwise one file, `name` in the new file system
  bool empty = false;                      // comes back empty
  std::string name;
};

// Rewrites those entries (by mount namespace) that plan.content_mounts and recreated_mounts
// name, and the container's own binds of parts of them. `host`: the mounts that
// a peer outside could be among.
std::vector<Taken> take_in(const DumpPlan& plan, const mountmap::MountTable& host,
                           std::vector<Entries>& spaces);

}  // namespace stasis::engine::mounts
