// A superblock of the container's own, made anew.
#pragma once

#include <string>

#include "base/unique_fd.h"
#include "mnt.pb.h"

namespace stasis::engine::mounts {

struct FreshMount {
  const image::MntEntry* entry = nullptr;
  UniqueFd content;            // the archive of a tmpfs
  std::string cgroup_options;  // cgroup2: the host's options, which are everybody's
  std::string source;          // in place of the entry's own, unless empty
  std::string lsm_context;     // replaces the entry's "context=" unless empty
};

// In the container's namespaces. The mount, attached nowhere, with its content
// and flags.
UniqueFd make_fresh(const FreshMount& what);

// MOUNT_ATTR_* for the MS_* flags of an entry.
uint64_t mount_attributes(const image::MntEntry& entry);

}  // namespace stasis::engine::mounts
