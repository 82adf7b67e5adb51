// Makes the open files of an image again, in the coordinator; the descriptors
// then go into the tasks by SCM_RIGHTS.
#pragma once

#include <sys/types.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/unique_fd.h"
#include "engine/plan.h"
#include "fdinfo.pb.h"

namespace stasis::image {
struct Checkpoint;
struct TaskImage;
}  // namespace stasis::image

namespace stasis::engine::files {

class Restorer {
 public:
  Restorer(const image::Checkpoint& image, const RestorePlan& plan, Log& log);
  ~Restorer();
  Restorer(const Restorer&) = delete;
  Restorer& operator=(const Restorer&) = delete;

  // O_PATH descriptor (borrowed) of the restored root task's /, once its
  // mounts are built: files are opened beneath it.
  void set_root(int container_root) { root_ = container_root; }

  // Our own descriptor of that open file, made on first use and kept: every
  // task that held the same open file gets the same one.
  int get(uint32_t file_id);

  // The same path opened anew, as a mapping needs it (position and owner don't matter).
  UniqueFd open_for_mapping(uint32_t file_id, uint32_t fdflags);

  struct Slot {
    int target;
    bool cloexec;
    int ours;  // borrowed from this Restorer
  };
  std::vector<Slot> descriptors(const image::TaskImage& task);

  // What the task itself must do once its descriptors are in place:
  // epoll_ctl(epoll, EPOLL_CTL_ADD, fd, {events, data}). Each watch is handed out once.
  struct Watch {
    int epoll;
    int fd;
    uint32_t events;
    uint64_t data;
  };
  std::vector<Watch> watches(const image::TaskImage& task);

  // Restores who gets SIGIO of which file, when all tasks exist: pid in the
  // container's root pid namespace -> pid in ours.
  void set_owners(const std::map<pid_t, pid_t>& tasks);

  // Closes all that it holds; to be done before the tasks run, or a pipe whose
  // writers are gone would never end.
  void close_all();

  // For the kinds.
  const image::Checkpoint& image() const { return image_; }
  const RestorePlan& plan() const { return plan_; }
  Log& log() { return log_; }
  int root() const;  // throws when set_root wasn't called
  const image::FileEntry& entry(uint32_t file_id) const;
  // The inherited descriptor (borrowed) that stands for `key`, or -1.
  int inherited(const std::string& key) const;
  // A descriptor kept until close_all(), by a key of the kind that uses it:
  // a pipe's other end, a deleted file. Null: none yet.
  UniqueFd* find_kept(const std::string& key);
  UniqueFd& keep(const std::string& key, UniqueFd fd);
  // Notes F_SETOWN's part for set_owners(), does F_SETSIG's at once.
  void restore_owner(int fd, const image::FownEntry& owner);

 private:
  const image::Checkpoint& image_;
  const RestorePlan& plan_;
  Log& log_;
  int root_ = -1;
  std::map<uint32_t, UniqueFd> made_;
  std::map<std::string, UniqueFd> kept_;
  std::set<uint32_t> watched_;
  std::vector<std::pair<int, image::FownEntry>> owners_;
};

}  // namespace stasis::engine::files
