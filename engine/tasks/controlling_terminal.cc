#include "engine/tasks/controlling_terminal.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <map>

#include "kernel/fs.h"

namespace stasis::engine {

namespace {

// What is sent arrives as 0, what is opened next becomes 1, 2, ...
constexpr int slave = 0;

// A job of the shell that the restore is called from, and no longer we, is what
// it runs in the foreground.
void take_foreground(LiveTask& root, int terminal) {
  pid_t pid = static_cast<pid_t>(root.image->tree.pid());
  if (root.sid == pid || root.pgid != pid) return;
  long result = kernel::call(SYS_ioctl, terminal, TIOCSPGRP, &root.pid);
  if (result != -ENOTTY)  // not the one of our session
    kernel::must(result, "set the foreground group of", "the terminal given");
}

}  // namespace

std::vector<files::Session> sessions_of(FrozenTree& tree) {
  std::map<pid_t, files::Session> sessions;
  for (const FrozenTask& task : tree.tasks()) {
    if (task.zombie) continue;
    files::Session& session = sessions[task.stat.session];
    session.leader = task.stat.session;
    session.members.insert(task.pid);
    session.terminal = static_cast<unsigned>(task.stat.tty_nr);
    if (task.pid == session.leader) session.id = static_cast<uint32_t>(task.ns_pid);
    for (const FrozenTask& other : tree.tasks())
      if (other.stat.pgrp == task.stat.tpgid)
        session.foreground_group = static_cast<uint32_t>(other.ns_pgid);
  }
  std::vector<files::Session> list;
  list.reserve(sessions.size());
  for (auto& [leader, session] : sessions) list.push_back(std::move(session));
  return list;
}

ControllingTerminals::ControllingTerminals(files::Restorer& files, Trampoline& trampoline,
                                           FdSender& sender)
    : files_(files),
      trampoline_(trampoline),
      sender_(sender),
      terminals_(files.terminals().controls()) {}

void ControllingTerminals::give(LiveTask& leader) {
  for (const files::Terminals::Control& terminal : terminals_) {
    if (terminal.session != static_cast<pid_t>(leader.image->tree.pid()) || leader.image->dead())
      continue;
    SyscallBatch batch;
    sender_.send({terminal.slave.get()}, batch);
    batch.must("give a terminal to", SYS_ioctl, slave, TIOCSCTTY, 0);
    batch.must("close a descriptor of", SYS_close, slave);
    trampoline_.run(leader.leader().tracee, batch, leader.name());
    given_.insert(terminal.session);
  }
}

void ControllingTerminals::finish(LiveTree& tree, LiveTask& leader,
                                  const files::Terminals::Control& terminal) {
  SyscallBatch batch;
  sender_.send({terminal.slave.get()}, batch);
  auto& tasks = tree.tasks();
  // A group whose processes have all ended can't be the foreground again.
  bool lives = std::any_of(tasks.begin(), tasks.end(), [&](const LiveTask& task) {
    return task.pgid == terminal.foreground_group && task.sid == terminal.session &&
           !task.image->dead();
  });
  if (lives)
    batch.must("set the foreground group of the terminal of", SYS_ioctl, slave, TIOCSPGRP,
               batch.object(terminal.foreground_group));
  std::map<uint32_t, SyscallBatch::Slot> opened;
  for (uint32_t id : terminal.current)
    opened.emplace(id, batch.must("open the terminal of", SYS_openat, AT_FDCWD,
                                  batch.text(files_.terminals().path(id)),
                                  (files_.terminals().flags(id) & O_ACCMODE) | O_NOCTTY |
                                      O_NONBLOCK | O_CLOEXEC));
  trampoline_.run(leader.leader().tracee, batch, leader.name());
  UniqueFd pidfd = kernel::pidfd_open(leader.pid);
  SyscallBatch cleanup;
  cleanup.must("close a descriptor of", SYS_close, slave);
  for (auto [id, slot] : opened) {
    int number = static_cast<int>(batch.result(slot));
    files_.terminals().take_current(id, kernel::pidfd_getfd(pidfd.get(), number));
    cleanup.must("close a descriptor of", SYS_close, number);
  }
  trampoline_.run(leader.leader().tracee, cleanup, leader.name());
}

void ControllingTerminals::finish(LiveTree& tree) {
  if (int given = files_.plan().terminal; given >= 0) take_foreground(tree.tasks().front(), given);
  for (const files::Terminals::Control& terminal : terminals_)
    for (LiveTask& task : tree.tasks()) {
      if (static_cast<pid_t>(task.image->tree.pid()) != terminal.session ||
          task.sid != terminal.session || task.image->dead())
        continue;
      if (!given_.contains(terminal.session)) give(task);
      finish(tree, task, terminal);
    }
  terminals_.clear();
}

}  // namespace stasis::engine
