#include "engine/tasks/births.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "engine/image/format.h"

namespace stasis::engine {

namespace {

using image::TaskImage;

Error cannot_make(const TaskImage& task) { return Error("restore", name_of(task)); }

}  // namespace

std::string name_of(const TaskImage& task) {
  return fmt::format("process {} ({})", task.tree.pid(), task.core().comm());
}

Births::Births(const image::Checkpoint& checkpoint) : checkpoint_(checkpoint) {
  for (const Task& task : checkpoint.tasks) {
    by_pid_[pid_of(task)] = &task;
    for (uint32_t thread : task.tree.threads())
      last_id_ = std::max(last_id_, static_cast<pid_t>(thread));
    last_id_ = std::max({last_id_, pid_of(task), session_of(task), group_of(task)});
  }
  for (const Task& task : checkpoint.tasks)
    if (&task != &checkpoint.root()) made_[&maker_of(task)].push_back(&task);
  check_reapers();
  for (const Task& task : checkpoint.tasks) make_group(task);
}

std::vector<const TaskImage*> Births::made_by(const Task& maker) const {
  auto found = made_.find(&maker);
  return found == made_.end() ? std::vector<const Task*>() : found->second;
}

bool Births::is_helper(const Task& task) const {
  return std::any_of(helpers_.begin(), helpers_.end(),
                     [&](const Task& helper) { return &helper == &task; });
}

const TaskImage& Births::maker_of(const Task& task) {
  if (session_of(task) == pid_of(task) || parent_makes(task)) return *by_pid_.at(parent_of(task));
  return session_maker(task);
}

// A task's session is that of its parent: the one the parent has in the end, or
// the one it was born with. That is so for the parent, too, and its parent.
bool Births::parent_makes(const Task& task) {
  pid_t session = session_of(task);
  std::vector<const Task*> chain{&task};
  const Task* parent = by_pid_.at(parent_of(task));
  while (session_of(*parent) != session) {
    bool leads = session_of(*parent) == pid_of(*parent) && parent != &checkpoint_.root();
    auto known = born_in_.find(parent);
    if (!leads || (known != born_in_.end() && known->second != session)) return false;
    chain.push_back(parent);
    auto next = by_pid_.find(parent_of(*parent));
    if (next == by_pid_.end()) return false;
    parent = next->second;
  }
  for (size_t i = 1; i < chain.size(); ++i) {
    born_in_[chain[i]] = session;
    early_.insert(chain[i - 1]);
  }
  return true;
}

// An orphan: whoever made it was of its session and is gone.
const TaskImage& Births::session_maker(const Task& task) {
  const Task& parent = *by_pid_.at(parent_of(task));
  pid_t session = session_of(task);
  if (session == 0)
    throw cannot_make(task).because("it belongs to a session outside of the container");
  auto leader = by_pid_.find(session);
  const Task* maker = nullptr;
  if (leader == by_pid_.end()) {
    maker = &add_helper(parent, session, session, session);
  } else if (leader->second->dead()) {
    maker = leader->second;
  } else {
    const Task*& orphanage = orphanages_[session];
    if (!orphanage) orphanage = &add_helper(*leader->second, free_id(), session, session);
    maker = orphanage;
  }
  if (!maker || !may_reap(parent, *maker))
    throw cannot_make(task).because(fmt::format("its session {} has lost its leader", session));
  orphans_[&task] = maker;
  if (pid_of(parent) != 1) reapers_.insert(&parent);
  return *maker;
}

// Whether it can become the parent of the maker's children when that ends.
bool Births::may_reap(const Task& parent, const Task& maker) const {
  if (pid_of(parent) != 1 && (parent.dead() || !parent.core().child_subreaper())) return false;
  for (auto at = by_pid_.find(parent_of(maker)); at != by_pid_.end();
       at = by_pid_.find(parent_of(*at->second)))
    if (at->second == &parent) return true;
  return false;
}

// The kernel takes the nearest.
void Births::check_reapers() const {
  for (auto [task, maker] : orphans_)
    for (const Task* at = by_pid_.at(parent_of(*maker)); pid_of(*at) != parent_of(*task);
         at = by_pid_.at(parent_of(*at)))
      if (reapers_.contains(at))
        throw cannot_make(*task).because(
            fmt::format("process {} would become its parent", pid_of(*at)));
}

void Births::make_group(const Task& task) {
  pid_t group = group_of(task);
  if (group == 0 || group == group_of(checkpoint_.root())) return;
  auto leader = by_pid_.find(group);
  if (leader == by_pid_.end()) {
    if (session_of(task) == pid_of(task))
      throw cannot_make(task).because(
          fmt::format("it leads a session but not its process group {}", group));
    add_helper(task, group, group, session_of(task));
  } else if (session_of(*leader->second) != session_of(task)) {
    throw cannot_make(task).because(
        fmt::format("its process group {} is of another session", group));
  }
}

const TaskImage& Births::add_helper(const Task& maker, pid_t pid, pid_t group, pid_t session) {
  Task& helper = helpers_.emplace_back();
  helper.tree.set_pid(static_cast<uint32_t>(pid));
  helper.tree.set_ppid(maker.tree.pid());
  helper.tree.set_pgid(static_cast<uint32_t>(group));
  helper.tree.set_sid(static_cast<uint32_t>(session));
  helper.tree.add_threads(static_cast<uint32_t>(pid));
  image::TaskCoreEntry& core = *helper.threads.emplace_back().mutable_tc();
  core.set_comm("helper");
  core.set_task_state(image::task_dead);
  core.set_exit_code(0);
  by_pid_[pid] = &helper;
  made_[&maker].push_back(&helper);
  return helper;
}

pid_t Births::free_id() { return ++last_id_; }

}  // namespace stasis::engine
