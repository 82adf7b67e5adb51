// Time namespace: monotonic clocks go on where they stood, on any boot.
#pragma once

#include <sys/types.h>
#include <time.h>

#include <string_view>

#include "engine/image/checkpoint.h"
#include "ns.pb.h"

namespace stasis::engine::timens {

struct Offsets {
  timespec monotonic{}, boottime{};
};
// /proc/PID/timens_offsets: "monotonic 0 0", and "1 0 0" before Linux 5.11.
Offsets parse_offsets(std::string_view text);

// What a task's clocks read now, computed from its namespace's offsets: no
// thread of a multithreaded process may enter a time namespace.
image::TimensEntry read(pid_t pid);

// Coordinator, before the root task is cloned: makes a time namespace for the
// children whose clocks read what the image says. Without clocks in the image
// children stay in ours.
void prepare(const image::Checkpoint& checkpoint);

// The root task itself, where the time namespace has to belong to the user
// namespace that it is in: what prepare() makes for children becomes its own.
void enter(const image::Checkpoint& checkpoint);

// What prepare() does, for a task that has unshared its time namespace, in which its next
// program will be. May be repeated; has no effect once anybody is in it.
void set_clocks(const image::Checkpoint& checkpoint, pid_t pid);

// How many seconds the task's monotonic clock is ahead of the image's.
double ahead_of(const image::Checkpoint& checkpoint, pid_t pid);

// Whether a process that has unshared its time namespace is in it after execve
// (fs/exec.c: since Linux 6.3). Otherwise it would be refused threads. Nothing but
// such an execve could tell, so the version has to.
bool entered_by_exec();

}  // namespace stasis::engine::timens
