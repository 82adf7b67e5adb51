// This thread with another effective user and group, for a while.
#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#include <string>

#include "engine/namespaces/userns.h"
#include "kernel/call.h"

namespace stasis::engine {

class ActAs {
 public:
  ActAs(uint32_t uid, uint32_t gid, const std::string& subject) {
    // The groups first and back last, as only root may change them. The calls are
    // for this thread alone, unlike libc's.
    if (gid != gid_)
      kernel::must(kernel::call(SYS_setresgid, same, gid, same), "become the owner of", subject);
    gid_changed_ = gid != gid_;
    if (uid == uid_) return;
    long result = kernel::call(SYS_setresuid, same, uid, same);
    uid_changed_ = result == 0;
    if (uid_changed_) return;
    go_back();
    kernel::must(result, "become the owner of", subject);
  }
  ~ActAs() { go_back(); }
  ActAs(const ActAs&) = delete;
  ActAs& operator=(const ActAs&) = delete;

 private:
  static constexpr int same = -1;

  void go_back() {
    if (uid_changed_) kernel::call(SYS_setresuid, same, uid_, same);
    if (gid_changed_) kernel::call(SYS_setresgid, same, gid_, same);
    // Those that files are made as followed, and may have been others.
    if (uid_changed_) kernel::call(SYS_setfsuid, fs_uid_);
    if (gid_changed_) kernel::call(SYS_setfsgid, fs_gid_);
  }

  const uint32_t uid_ = geteuid(), gid_ = getegid();
  // An id that can't be set only asks.
  const long fs_uid_ = kernel::call(SYS_setfsuid, same), fs_gid_ = kernel::call(SYS_setfsgid, same);
  bool uid_changed_ = false, gid_changed_ = false;
};

// As root inside: the sysctls of an ipc namespace can be written by its owner alone,
// whatever else one may.
class ActAsRoot : public ActAs {
 public:
  explicit ActAsRoot(const userns::IdMap& ids)
      : ActAs(ids.uid_outside(0, "the namespace"), ids.gid_outside(0, "the namespace"),
              "the namespace") {}
};

}  // namespace stasis::engine
