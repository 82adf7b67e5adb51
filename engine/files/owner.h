// Who gets a signal when something happens to an open file (F_SETOWN, F_SETSIG).
#pragma once

#include <sys/types.h>

#include <map>

#include "engine/namespaces/userns.h"
#include "fdinfo.pb.h"

namespace stasis::engine::files {

// A process's id as `root` sees it; 0 where it can't.
pid_t pid_inside(pid_t root, pid_t pid);

// Of our duplicate `fd`. Pids and uids are written as the namespaces of `root` see them.
image::FownEntry dump_owner(int fd, uint32_t flags, pid_t root);

// `tasks`: pid in the container's root pid namespace -> pid in ours.
void set_owner(int fd, const image::FownEntry& owner, const std::map<pid_t, pid_t>& tasks,
               const userns::IdMap& ids);

}  // namespace stasis::engine::files
