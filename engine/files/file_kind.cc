#include "engine/files/file_kind.h"

#include <array>

#include "engine/files/locks.h"
#include "engine/files/probe.h"
#include "engine/files/standing.h"
#include "engine/files/unsupported.h"
#include "engine/mounts/view.h"
#include "engine/plan.h"

namespace stasis::engine::files {

namespace {

// The first that claims a descriptor has it.
constexpr std::array<const FileKind*, 12> kinds = {
    &pipe_kind,  &eventfd_kind, &timerfd_kind, &signalfd_kind, &epoll_kind, &unix_kind,
    &memfd_kind, &inotify_kind, &pidfd_kind,   &nsfile_kind,   &fifo_kind,  &regular_kind,
};

}  // namespace

Surroundings::Surroundings(const DumpPlan& plan) : plan_(plan) {
  roots_[plan.root] = open_container_root(plan);
}

int Surroundings::root(const mounts::Space& space) const {
  UniqueFd& root = roots_[space.pid];
  if (!root.valid()) root = mounts::open_root(space);
  return root.get();
}

int Surroundings::view(const mounts::Place& place) const {
  UniqueFd& view = views_[place.mount->id];
  if (!view.valid()) view = std::move(mounts::open_views(place.space, {place.mount}).front());
  return view.get();
}

const UnixSockets& Surroundings::unix_sockets() const {
  if (!unix_sockets_) unix_sockets_ = list_unix_sockets(plan_.root);
  return *unix_sockets_;
}

std::span<const FileKind* const> file_kinds() { return kinds; }

const FileKind* kind_of(const Probe& probe) {
  for (const FileKind* kind : kinds)
    if (kind->claims(probe)) return kind;
  return nullptr;
}

const FileKind* kind_of(image::FdTypes type) {
  for (const FileKind* kind : kinds)
    if (kind->type == type) return kind;
  return nullptr;
}

std::optional<Objection> objection_to(const Probe& probe) {
  const FileKind* kind = kind_of(probe);
  return kind ? std::nullopt : std::optional(unsupported(probe));
}

std::optional<Objection> objection_to(const Probe& probe, const Surroundings& around) {
  if (auto objection = objection_to(probe)) return objection;
  if (auto objection = lock_objection(probe, around.plan())) return objection;
  const FileKind* kind = kind_of(probe);
  return kind->objection ? kind->objection(probe, around) : std::nullopt;
}

}  // namespace stasis::engine::files
