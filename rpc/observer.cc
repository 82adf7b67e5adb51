#include "rpc/observer.h"

#include <cerrno>

#include "base/error.h"

namespace stasis::rpc {

void NotifyObserver::tell(const char* script, pid_t pid) {
  if (notify_) exchange(script, pid, -1);
}

void NotifyObserver::orphan_pts_master(int master_fd) {
  exchange("orphan-pts-master", 0, master_fd);
}

void NotifyObserver::exchange(const char* script, pid_t pid, int passed) {
  Response response;
  response.set_type(NOTIFY);
  response.set_success(true);
  response.mutable_notify()->set_script(script);
  if (pid > 0) response.mutable_notify()->set_pid(pid);
  channel_.send(std::move(response), passed);

  std::optional<Request> answer = channel_.receive();
  if (!answer)
    throw Error("go on after", script).because("the caller has gone").with_errno(ECONNRESET);
  if (answer->type() != NOTIFY || !answer->notify_success())
    throw Error("go on after", script).because("the caller reports a failure of its own");
}

}  // namespace stasis::rpc
