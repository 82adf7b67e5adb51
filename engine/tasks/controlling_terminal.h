// Sessions and their controlling terminals.
#pragma once

#include <set>
#include <vector>

#include "engine/files/restorer.h"
#include "engine/remote/trampoline.h"
#include "engine/tasks/fd_sender.h"
#include "engine/tasks/frozen_tree.h"
#include "engine/tasks/live_tree.h"

namespace stasis::engine {

std::vector<files::Session> sessions_of(FrozenTree& tree);

class ControllingTerminals {
 public:
  ControllingTerminals(files::Restorer& files, Trampoline& trampoline, FdSender& sender);

  // The leader takes its session's terminal. Children inherit it: so before it has
  // any. It has nothing but the sender's descriptor, here and below.
  void give(LiveTask& leader);
  // All tasks are there: the foreground groups, and /dev/tty for whoever holds that.
  void finish(LiveTree& tree);

 private:
  void finish(LiveTree& tree, LiveTask& leader, const files::Terminals::Control& terminal);

  files::Restorer& files_;
  Trampoline& trampoline_;
  FdSender& sender_;
  std::vector<files::Terminals::Control> terminals_;
  std::set<pid_t> given_;  // sessions
};

}  // namespace stasis::engine
