// The tree of a container that is being restored, grown from outside: parents
// clone their children in batches, each with its dumped pid.
#pragma once

#include <functional>
#include <list>
#include <map>
#include <string>
#include <vector>

#include "engine/image/checkpoint.h"
#include "engine/remote/tracee.h"
#include "engine/remote/trampoline.h"
#include "engine/tasks/births.h"

namespace stasis::engine {

struct LiveThread {
  Tracee tracee;
  pid_t tid;  // in our pid namespace
  const image::CoreEntry* core;
  pid_t ns_tid;
};

struct LiveTask {
  const image::TaskImage* image;
  pid_t pid;                      // in our pid namespace
  pid_t pgid, sid;                // in the container's, as they are now; 0: outside of it
  std::list<LiveThread> threads;  // leader first
  const image::TaskImage* memory = nullptr;  // whose memory it has; null: nobody's

  LiveThread& leader() { return threads.front(); }
  std::string name() const;  // "process 7 (sh)", pid in the container
};

class LiveTree {
 public:
  // For a root that isn't of our making and may have few privileges.
  struct Custom {
    pid_t root_pgid = 0, root_sid = 0;  // as it is, in the container's; 0: outside of it
    // Lets the next task have this id; without it tasks are cloned with the id.
    std::function<void(pid_t)> choose_id = {};
    // Of a new child, before it has children; may let it execve.
    std::function<void(LiveTask&)> born = {};
    // Of a task that is about to have children, who are born with its memory.
    std::function<void(LiveTask&)> before_children = {};
    // Of a new leader of a session, before it has children in it.
    std::function<void(LiveTask&)> leads = {};
  };

  // Whether sessions and groups of the image can be made, before there is any
  // task. Throws naming the process.
  static void check(const image::Checkpoint& checkpoint);

  LiveTree(const image::Checkpoint& checkpoint, Trampoline& trampoline);
  LiveTree(const image::Checkpoint& checkpoint, Trampoline& trampoline, Custom custom);
  ~LiveTree();  // kills what was not let go
  LiveTree(const LiveTree&) = delete;
  LiveTree& operator=(const LiveTree&) = delete;

  // Makes all processes. The root is stopped, and has nothing but the
  // trampoline and one descriptor left; its children inherit that.
  void grow(Tracee root, pid_t root_pid);
  // Makes the other threads of a process.
  void grow_threads(LiveTask& task);

  std::list<LiveTask>& tasks() { return tasks_; }  // parents before children
  // pid in the container -> pid in our namespace
  std::map<pid_t, pid_t> pids() const;

  void release();  // all run

 private:
  void grow_children(LiveTask& parent);
  void adopt_children(LiveTask& parent, const std::vector<const image::TaskImage*>& children,
                      const std::vector<std::pair<pid_t, pid_t>>& groups);
  void set_groups();
  void end(LiveTask& task);
  void end_helper(LiveTask& helper);
  void end_dead_tasks();

  const image::Checkpoint& checkpoint_;
  Births births_;
  Trampoline& trampoline_;
  Custom custom_;
  std::list<LiveTask> tasks_;
};

}  // namespace stasis::engine
