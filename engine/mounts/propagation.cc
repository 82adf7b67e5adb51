#include "engine/mounts/propagation.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#include <cerrno>
#include <map>
#include <string>

#include "base/error.h"
#include "kernel/call.h"
#include "kernel/mount_api.h"

namespace stasis::engine::mounts {

namespace {

class Propagation {
 public:
  Propagation(const Tree& tree, const std::vector<UniqueFd>& mounts,
              const std::vector<UniqueFd>& sources, const std::vector<UniqueFd>& namespaces,
              const WideMount& wide_mount, Log& log)
      : tree_(tree),
        mounts_(mounts),
        sources_(sources),
        namespaces_(namespaces),
        wide_mount_(wide_mount),
        log_(log) {}

  void enter(int space);
  void restore(const Group& group);
  void make_unbindable();

 private:
  const image::MntEntry& entry(int i) const { return *tree_.nodes[i].entry; }
  const Group* group_of(uint32_t shared) const;
  int leader_of(const Group& group) const;
  int source_of(int member) const;
  // Both of a mount that is `member`, or stands for it and its peers.
  void make_slave(int mount, int member, int space);
  void change(int mount, int space, uint64_t propagation, const std::string& name);

  const Tree& tree_;
  const std::vector<UniqueFd>& mounts_;
  const std::vector<UniqueFd>& sources_;
  const std::vector<UniqueFd>& namespaces_;
  const WideMount& wide_mount_;
  Log& log_;
  std::map<const Group*, UniqueFd> wide_;
  int space_ = 0;  // that we are in
};

const Group* Propagation::group_of(uint32_t shared) const {
  for (const auto& group : tree_.groups)
    if (group.shared == shared) return &group;
  return nullptr;
}

int Propagation::leader_of(const Group& group) const {
  auto wide = wide_.find(&group);
  return wide == wide_.end() ? mounts_[group.members[0]].get() : wide->second.get();
}

void Propagation::enter(int space) {
  if (space == space_) return;
  kernel::must(kernel::call(SYS_setns, namespaces_[space].get(), CLONE_NEWNS), "enter",
               "a mount namespace of the container");
  space_ = space;
}

// Groups are joined across namespaces, but only from within its own can a mount
// be changed.
void Propagation::change(int mount, int space, uint64_t propagation, const std::string& name) {
  enter(space);
  kernel::set_mount_attributes(mount, 0, 0, propagation, name);
}

// The mount on the host that has the same master: that `member` was made from,
// or that another one was that it is a part of.
int Propagation::source_of(int member) const {
  if (sources_[member].valid()) return member;
  int from = -1;
  for (size_t i = 0; i < tree_.nodes.size(); ++i) {
    const auto& other = *tree_.nodes[i].entry;
    if (sources_[i].valid() && other.master_id() == entry(member).master_id() &&
        other.root_dev() == entry(member).root_dev() &&
        is_beneath(entry(member).root(), other.root()))
      from = static_cast<int>(i);
  }
  return from;
}

// First a peer of the master, then its slave.
void Propagation::make_slave(int mount, int member, int space) {
  const auto& place = entry(member).mountpoint();
  if (const Group* master = group_of(entry(member).master_id())) {
    kernel::join_mount_group(leader_of(*master), mount, place);
    return change(mount, space, MS_SLAVE, place);
  }
  // The master is on the host.
  int from = source_of(member);
  try {
    if (from >= 0) kernel::join_mount_group(sources_[from].get(), mount, place);
  } catch (const Error& error) {
    if (error.code() != EINVAL) throw;
    from = -1;  // the source neither is a peer nor has a master
  }
  // A container that is created here would have no more propagation, either.
  if (from < 0)
    log_.warn("{} received mounts from its source; the source here does not share any", place);
  else
    change(mount, space, MS_SLAVE, place);
}

void Propagation::restore(const Group& group) {
  int first = group.members[0];
  const auto& place = entry(first).mountpoint();
  if (!group.shared) {
    for (int member : group.members)
      make_slave(mounts_[member].get(), member, tree_.nodes[member].space);
    return;
  }
  bool widened = group.wide_node >= 0 || group.wide_unseen >= 0;
  if (widened) {
    enter(0);
    wide_[&group] = wide_mount_(group);
  }
  int leader = leader_of(group), space = widened ? 0 : tree_.nodes[first].space;
  // The image says so where the group was the host's: mounts made in the
  // container appear on the host and the other way round.
  bool with_host = sources_[first].valid() && entry(first).has_internal_sharing() &&
                   !entry(first).internal_sharing();
  if (with_host) {
    kernel::join_mount_group(sources_[first].get(), leader, place);
  } else {
    if (group.master) make_slave(leader, first, space);
    change(leader, space, MS_SHARED, place);
  }
  for (int member : group.members) {
    if (mounts_[member].get() == leader) continue;
    bool by_itself = with_host && sources_[member].valid();
    kernel::join_mount_group(by_itself ? sources_[member].get() : leader, mounts_[member].get(),
                             entry(member).mountpoint());
  }
}

void Propagation::make_unbindable() {
  for (size_t i = 0; i < tree_.nodes.size(); ++i) {
    const auto& mount = *tree_.nodes[i].entry;
    if ((mount.flags() & MS_UNBINDABLE) && !mount.shared_id() && !mount.master_id())
      change(mounts_[i].get(), tree_.nodes[i].space, MS_UNBINDABLE, mount.mountpoint());
  }
}

}  // namespace

void restore_propagation(const Tree& tree, const std::vector<UniqueFd>& mounts,
                         const std::vector<UniqueFd>& sources,
                         const std::vector<UniqueFd>& namespaces, const WideMount& wide_mount,
                         Log& log) {
  Propagation propagation(tree, mounts, sources, namespaces, wide_mount, log);
  for (const auto& group : tree.groups) propagation.restore(group);
  propagation.make_unbindable();
  propagation.enter(0);
}

}  // namespace stasis::engine::mounts
