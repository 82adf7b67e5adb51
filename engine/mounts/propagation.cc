#include "engine/mounts/propagation.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#include <cerrno>

#include "base/error.h"
#include "kernel/call.h"
#include "kernel/mount_api.h"

namespace stasis::engine::mounts {

namespace {

class Propagation {
 public:
  Propagation(const Tree& tree, const std::vector<UniqueFd>& mounts,
              const std::vector<UniqueFd>& sources, const std::vector<UniqueFd>& namespaces,
              Log& log)
      : tree_(tree), mounts_(mounts), sources_(sources), namespaces_(namespaces), log_(log) {}

  void enter(int space);
  void restore(const Group& group);
  void make_unbindable();

 private:
  const image::MntEntry& entry(int i) const { return *tree_.nodes[i].entry; }
  const Group* group_of(uint32_t shared) const;
  void make_slave(int member, const Group& group);
  void change(int member, uint64_t propagation);

  const Tree& tree_;
  const std::vector<UniqueFd>& mounts_;
  const std::vector<UniqueFd>& sources_;
  const std::vector<UniqueFd>& namespaces_;
  Log& log_;
  int space_ = 0;  // that we are in
};

const Group* Propagation::group_of(uint32_t shared) const {
  for (const auto& group : tree_.groups)
    if (group.shared == shared) return &group;
  return nullptr;
}

void Propagation::enter(int space) {
  if (space == space_) return;
  kernel::must(kernel::call(SYS_setns, namespaces_[space].get(), CLONE_NEWNS), "enter",
               "a mount namespace of the container");
  space_ = space;
}

// Groups are joined across namespaces, but only from within its own can a mount
// be changed.
void Propagation::change(int member, uint64_t propagation) {
  enter(tree_.nodes[member].space);
  kernel::set_mount_attributes(mounts_[member].get(), 0, 0, propagation,
                               entry(member).mountpoint());
}

// First a peer of the master, then its slave.
void Propagation::make_slave(int member, const Group& group) {
  const auto& place = entry(member).mountpoint();
  if (const Group* master = group_of(group.master)) {
    kernel::join_mount_group(mounts_[master->members[0]].get(), mounts_[member].get(), place);
    return change(member, MS_SLAVE);
  }
  // The master is on the host: the source knows it, of this mount or of
  // another one that this one is a part of.
  int from = -1;
  for (size_t i = 0; i < tree_.nodes.size() && !sources_[member].valid(); ++i) {
    const auto& other = *tree_.nodes[i].entry;
    if (sources_[i].valid() && other.master_id() == group.master &&
        other.root_dev() == entry(member).root_dev() &&
        is_beneath(entry(member).root(), other.root()))
      from = static_cast<int>(i);
  }
  if (sources_[member].valid()) from = member;
  try {
    if (from >= 0) kernel::join_mount_group(sources_[from].get(), mounts_[member].get(), place);
  } catch (const Error& error) {
    if (error.code() != EINVAL) throw;
    from = -1;  // the source neither is a peer nor has a master
  }
  // A container that is created here would have no more propagation, either.
  if (from < 0)
    log_.warn("{} received mounts from its source; the source here does not share any", place);
  else
    change(member, MS_SLAVE);
}

void Propagation::restore(const Group& group) {
  int first = group.members[0];
  const auto& place = entry(first).mountpoint();
  // The image says so where the group was the host's: mounts made in the
  // container appear on the host and the other way round.
  bool with_host = group.shared && sources_[first].valid() && entry(first).has_internal_sharing() &&
                   !entry(first).internal_sharing();
  if (with_host) {
    kernel::join_mount_group(sources_[first].get(), mounts_[first].get(), place);
  } else {
    if (group.master) make_slave(first, group);
    if (group.shared) change(first, MS_SHARED);
  }
  for (size_t i = 1; i < group.members.size(); ++i) {
    int member = group.members[i];
    if (!group.shared)
      make_slave(member, group);
    else
      kernel::join_mount_group(mounts_[first].get(), mounts_[member].get(),
                               entry(member).mountpoint());
  }
}

void Propagation::make_unbindable() {
  for (size_t i = 0; i < tree_.nodes.size(); ++i) {
    const auto& mount = *tree_.nodes[i].entry;
    if ((mount.flags() & MS_UNBINDABLE) && !mount.shared_id() && !mount.master_id())
      change(static_cast<int>(i), MS_UNBINDABLE);
  }
}

}  // namespace

void restore_propagation(const Tree& tree, const std::vector<UniqueFd>& mounts,
                         const std::vector<UniqueFd>& sources,
                         const std::vector<UniqueFd>& namespaces, Log& log) {
  Propagation propagation(tree, mounts, sources, namespaces, log);
  for (const auto& group : tree.groups) propagation.restore(group);
  propagation.make_unbindable();
  propagation.enter(0);
}

}  // namespace stasis::engine::mounts
