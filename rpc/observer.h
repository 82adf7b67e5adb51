// Tells the caller what the engine is about to do, as NOTIFY packets, and
// waits for its answers.
#pragma once

#include <functional>

#include "engine/plan.h"
#include "rpc/channel.h"

namespace stasis::rpc {

class NotifyObserver : public engine::Observer {
 public:
  // Without `notify` (the caller's notify_scripts) only orphan_pts_master
  // is told: it carries a descriptor, not a moment.
  NotifyObserver(Channel& channel, bool notify) : channel_(channel), notify_(notify) {}

  void pre_dump() override { tell("pre-dump"); }
  void network_lock() override { tell("network-lock"); }
  void query_external_files() override { tell("query-ext-files"); }
  void post_dump() override { tell("post-dump"); }
  void pre_restore() override { tell("pre-restore"); }
  void setup_namespaces(pid_t root) override { tell("setup-namespaces", root); }
  void post_setup_namespaces(pid_t /*root*/) override { tell("post-setup-namespaces"); }
  void orphan_pts_master(int master_fd) override;
  void post_restore(pid_t root) override { tell("post-restore", root); }
  void network_unlock() override { tell("network-unlock"); }
  void pre_resume(pid_t /*root*/) override { tell("pre-resume"); }
  void post_resume(pid_t /*root*/) override { tell("post-resume"); }
  void restored(const engine::RestoreResult& result) override {
    if (on_restored) on_restored(result);
  }

  std::function<void(const engine::RestoreResult&)> on_restored;

 private:
  void tell(const char* script, pid_t pid = 0);
  void exchange(const char* script, pid_t pid, int passed);

  Channel& channel_;
  bool notify_;
};

}  // namespace stasis::rpc
