// Has the tasks of a restored container themselves listen and connect, so that
// SO_PEERCRED tells of them what it told before.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/log.h"
#include "engine/files/unix_doer.h"
#include "engine/namespaces/userns.h"
#include "engine/remote/trampoline.h"
#include "engine/tasks/fd_sender.h"
#include "engine/tasks/live_tree.h"

namespace stasis::engine {

// The tasks have nothing yet but the trampoline and the sender's descriptor.
class TaskDoer : public files::UnixDoer {
 public:
  TaskDoer(LiveTree& tree, Trampoline& trampoline, FdSender& sender, const userns::IdMap& ids,
           Log& log)
      : tree_(tree), trampoline_(trampoline), sender_(sender), ids_(ids), log_(log) {}

  void listen(int socket, uint32_t backlog, const image::UnixDoerEntry& who) override;
  void connect(int socket, int target, const std::string& name,
               const image::UnixDoerEntry& who) override;
  std::array<UniqueFd, 2> pair(uint32_t type, const image::UnixDoerEntry& who) override;

 private:
  LiveTask* find(const image::UnixDoerEntry& who);
  // The result of the call that `add` adds to `batch`; the task has `fds` from 0 on then.
  long in_task(LiveTask& task, const std::vector<int>& fds, const image::UnixDoerEntry& who,
               SyscallBatch& batch, const std::function<SyscallBatch::Slot()>& add);
  // One that has ended can be stood in for: its id is free.
  long in_namesake(const image::UnixDoerEntry& who, const std::function<long()>& action);
  void tell(const char* what, const image::UnixDoerEntry& who, long error);

  LiveTree& tree_;
  Trampoline& trampoline_;
  FdSender& sender_;
  const userns::IdMap& ids_;
  Log& log_;
};

}  // namespace stasis::engine
