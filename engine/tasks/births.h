// Who makes which process of an image. Mostly its parent; but sessions and
// groups are inherited, and some have outlived the process whose id they bear:
// then a helper has that id for a while, and leaves its children to the reaper
// that the image says is their parent.
#pragma once

#include <sys/types.h>

#include <list>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "engine/image/checkpoint.h"

namespace stasis::engine {

// By the ids of the image.
inline pid_t pid_of(const image::TaskImage& t) { return static_cast<pid_t>(t.tree.pid()); }
inline pid_t parent_of(const image::TaskImage& t) { return static_cast<pid_t>(t.tree.ppid()); }
inline pid_t session_of(const image::TaskImage& t) { return static_cast<pid_t>(t.tree.sid()); }
inline pid_t group_of(const image::TaskImage& t) { return static_cast<pid_t>(t.tree.pgid()); }
std::string name_of(const image::TaskImage& task);  // "process 17 (nginx)"

class Births {
 public:
  // Throws, naming the process, where a session or group can't be made.
  explicit Births(const image::Checkpoint& checkpoint);
  Births(const Births&) = delete;
  Births& operator=(const Births&) = delete;

  // Those that the process makes, helpers among them.
  std::vector<const image::TaskImage*> made_by(const image::TaskImage& maker) const;
  bool is_helper(const image::TaskImage& task) const;
  // It has to be a subreaper before helpers end; all others only afterwards.
  bool is_early_reaper(const image::TaskImage& task) const { return reapers_.contains(&task); }
  // Its maker makes it before its own setsid: it is to have the older session.
  bool is_early(const image::TaskImage& task) const { return early_.contains(&task); }

 private:
  using Task = image::TaskImage;

  const Task& maker_of(const Task& task);
  bool parent_makes(const Task& task);
  const Task& session_maker(const Task& task);
  bool may_reap(const Task& parent, const Task& maker) const;
  void check_reapers() const;
  const Task& add_helper(const Task& maker, pid_t pid, pid_t group, pid_t session);
  void make_group(const Task& task);
  pid_t free_id();

  const image::Checkpoint& checkpoint_;
  std::map<pid_t, const Task*> by_pid_;  // helpers too
  std::list<Task> helpers_;
  std::map<pid_t, const Task*> orphanages_;  // session -> the helper in it, of another id
  std::map<const Task*, std::vector<const Task*>> made_;
  std::set<const Task*> early_;
  std::map<const Task*, pid_t> born_in_;        // leaders -> the session before their own
  std::map<const Task*, const Task*> orphans_;  // task -> maker
  std::set<const Task*> reapers_;
  pid_t last_id_ = 0;  // the highest that the image knows
};

}  // namespace stasis::engine
