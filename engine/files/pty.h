// Pseudoterminals as /proc shows them, and who holds which of their ends.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "engine/files/probe.h"
#include "engine/plan.h"

namespace stasis::engine::files {

// The device of its devpts instance, its number there.
using PtyId = std::pair<uint64_t, unsigned>;

bool is_pty_master(const Probe& probe);
bool is_pty_slave(const Probe& probe);
bool is_current_tty(const Probe& probe);  // /dev/tty
bool was_deleted(const Probe& probe);     // its pty has ended

// Nothing where it is none, or a master of an instance that nobody can see.
std::optional<PtyId> pty_of(const Probe& probe, const DumpPlan& plan);

// Whether the container has that devpts instance mounted.
bool is_own_instance(uint64_t device, const DumpPlan& plan);

struct PtyEnds {
  std::set<PtyId> masters, slaves;
  // Of the container's instances, with masters outside: the console, mostly.
  std::vector<PtyId> orphans(const DumpPlan& plan) const;
};
// Those that the container's processes hold open.
PtyEnds list_ptys(const DumpPlan& plan);

// A new pty of that number: the kernel gives the lowest free one. `node`: an
// O_PATH descriptor of a ptmx that was looked at.
UniqueFd open_ptmx(int node, unsigned index);

}  // namespace stasis::engine::files
