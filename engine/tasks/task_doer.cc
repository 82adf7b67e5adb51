#include "engine/tasks/task_doer.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <cstring>

#include "engine/files/unix_name.h"
#include "engine/tasks/namesake.h"
#include "kernel/fs.h"
#include "kernel/proc_status.h"

namespace stasis::engine {

namespace {

constexpr uint32_t keep = UINT32_MAX;

kernel::ProcStatus status_of(pid_t pid) {
  return kernel::parse_status(kernel::read_file(fmt::format("/proc/{}/status", pid)));
}

}  // namespace

LiveTask* TaskDoer::find(const image::UnixDoerEntry& who) {
  for (LiveTask& task : tree_.tasks())
    if (!task.image->dead() && task.image->tree.pid() == who.pid()) return &task;
  return nullptr;
}

long TaskDoer::in_task(LiveTask& task, const std::vector<int>& fds, const image::UnixDoerEntry& who,
                       SyscallBatch& batch, const std::function<SyscallBatch::Slot()>& add) {
  auto status = status_of(task.pid);
  uint32_t uid = ids_.find_uid_inside(status.uid[1]).value_or(0);
  uint32_t gid = ids_.find_gid_inside(status.gid[1]).value_or(0);
  bool other = uid != who.uid() || gid != who.gid();
  if (!fds.empty()) sender_.send(fds, batch);
  // In place a task may have no right to: then it shows the ids that it has.
  if (other) {
    batch.may(SYS_setresgid, keep, who.gid(), keep);
    batch.may(SYS_setresuid, keep, who.uid(), keep);
  }
  SyscallBatch::Slot call = add();
  if (other) {
    batch.may(SYS_setresuid, keep, uid, keep);
    batch.may(SYS_setresgid, keep, gid, keep);
  }
  for (size_t i = 0; i < fds.size(); ++i)
    batch.must("close a descriptor of", SYS_close, static_cast<int>(i));
  trampoline_.run(task.leader().tracee, batch, task.name());
  return batch.result(call);
}

long TaskDoer::in_namesake(const image::UnixDoerEntry& who, const std::function<long()>& action) {
  if (who.pid() == 0 || tree_.tasks().empty()) return -ESRCH;
  UniqueFd pids = kernel::open(fmt::format("/proc/{}/ns/pid", tree_.tasks().front().pid), O_RDONLY);
  uint32_t uid = ids_.uid_outside(who.uid(), "a socket"),
           gid = ids_.gid_outside(who.gid(), "a socket");
  return as_process(pids.get(), static_cast<pid_t>(who.pid()), [&]() -> long {
    kernel::must(kernel::call(SYS_setresgid, keep, gid, keep), "take on", "a group");
    kernel::must(kernel::call(SYS_setresuid, keep, uid, keep), "take on", "a user");
    return action();
  });
}

void TaskDoer::tell(const char* what, const image::UnixDoerEntry& who, long error) {
  log_.info("SO_PEERCRED won't tell that process {} {}: error {}", who.pid(), what, -error);
}

void TaskDoer::listen(int socket, uint32_t backlog, const image::UnixDoerEntry& who) {
  LiveTask* task = find(who);
  SyscallBatch batch;
  long result = task ? in_task(*task, {socket}, who, batch,
                               [&] { return batch.may(SYS_listen, 0, static_cast<int>(backlog)); })
                     : in_namesake(who, [&] { return kernel::call(SYS_listen, socket, backlog); });
  if (result >= 0) return;
  tell("listened", who, result);
  UnixDoer::listen(socket, backlog, who);
}

void TaskDoer::connect(int socket, int target, const std::string& name,
                       const image::UnixDoerEntry& who) {
  UniqueFd file;
  std::vector<int> fds{socket};
  std::string path = name;
  if (!files::is_abstract(name)) {
    file = files::socket_file(target);
    fds.push_back(file.get());
    path = "/proc/self/fd/1";
  }
  sockaddr_un address{AF_UNIX, {}};
  path.copy(address.sun_path, sizeof address.sun_path);
  LiveTask* task = find(who);
  SyscallBatch batch;
  auto size = static_cast<int>(offsetof(sockaddr_un, sun_path) + path.size());
  long result =
      task ? in_task(*task, fds, who, batch,
                     [&] { return batch.may(SYS_connect, 0, batch.object(address), size); })
           : in_namesake(who, [&] { return files::connect_to(socket, target, name); });
  if (result >= 0) return;
  tell("connected", who, result);
  UnixDoer::connect(socket, target, name, who);
}

std::array<UniqueFd, 2> TaskDoer::pair(uint32_t type, const image::UnixDoerEntry& who) {
  std::array<int, 2> numbers{-1, -1};
  type |= SOCK_CLOEXEC;
  LiveTask* task = find(who);
  if (!task) {  // the namesake's descriptors are ours
    long result = in_namesake(who, [&]() -> long {
      long made = kernel::call(SYS_socketpair, AF_UNIX, type, 0, numbers.data());
      return made < 0 ? made : (static_cast<long>(numbers[0]) << 32) | numbers[1];
    });
    if (result >= 0)
      return {UniqueFd(static_cast<int>(result >> 32)), UniqueFd(static_cast<int>(result))};
    tell("made a pair", who, result);
    return UnixDoer::pair(type, who);
  }
  SyscallBatch batch;
  SyscallBatch::Data ends = batch.space(sizeof numbers);
  long result = in_task(*task, {}, who, batch, [&] {
    return batch.may(SYS_socketpair, AF_UNIX, static_cast<int>(type), 0, ends);
  });
  if (result < 0) {
    tell("made a pair", who, result);
    return UnixDoer::pair(type, who);
  }
  numbers = batch.view<std::array<int, 2>>(ends);
  UniqueFd pidfd = kernel::pidfd_open(task->pid);
  std::array<UniqueFd, 2> made{kernel::pidfd_getfd(pidfd.get(), numbers[0]),
                               kernel::pidfd_getfd(pidfd.get(), numbers[1])};
  SyscallBatch close;
  for (int number : numbers) close.must("close a descriptor of", SYS_close, number);
  trampoline_.run(task->leader().tracee, close, task->name());
  return made;
}

}  // namespace stasis::engine
