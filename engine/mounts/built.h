// What the root task, which builds the mounts, hands over to the coordinator.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "base/unique_fd.h"

namespace stasis::engine::mounts {

// A mount namespace beside the root task's.
struct BuiltSpace {
  UniqueFd ns;    // for setns
  UniqueFd root;  // O_PATH
};

struct Built {
  std::map<uint32_t, UniqueFd> hidden;    // open files that mounts hide, O_PATH, by file id
  std::map<uint32_t, BuiltSpace> spaces;  // by number of the namespace in the image
  // Masters of ptys that are mounted somewhere: by devpts instance (as stat
  // tells it) and number.
  std::map<std::pair<uint64_t, unsigned>, UniqueFd> ptys;
};

// The descriptors' numbers in this process; they stay open until it ends.
std::string to_text(Built built);
// Duplicates of what process `pid` has told so.
Built take_over(pid_t pid, std::string_view told);

}  // namespace stasis::engine::mounts
