// Makes the open files of an image again, in the coordinator; the descriptors
// then go into the tasks by SCM_RIGHTS.
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/unique_fd.h"
#include "engine/files/connections.h"
#include "engine/files/dead_task.h"
#include "engine/files/inotify.h"
#include "engine/files/later.h"
#include "engine/files/socket_queue.h"
#include "engine/files/terminal.h"
#include "engine/namespaces/userns.h"
#include "engine/plan.h"
#include "fdinfo.pb.h"
#include "fs.pb.h"

namespace stasis::image {
struct Checkpoint;
struct TaskImage;
}  // namespace stasis::image

namespace stasis::engine::files {

class UnixDoer;
class UnixFamily;

// A pipe that is being made again: both ends, and whether the one open file
// that pipe() makes of each has been given to an entry of the image.
struct PipeEnds {
  UniqueFd fd[2];
  bool taken[2] = {};
};

// A memory file that is being made again: its first open file, and whether an
// entry of the image has it.
struct MemoryFile {
  const image::MemfdInodeEntry* inode = nullptr;
  UniqueFd fd;
  bool taken = false;
};

class Restorer {
 public:
  Restorer(const image::Checkpoint& image, const RestorePlan& plan, Log& log);
  ~Restorer();
  Restorer(const Restorer&) = delete;
  Restorer& operator=(const Restorer&) = delete;

  // O_PATH descriptor (borrowed) of the restored root task's /, once its
  // mounts are built: files are opened beneath it.
  void set_root(int container_root) { root_ = container_root; }
  // The same of the namespaces (by their number in the image) that other tasks
  // have of their own.
  void set_nested_roots(std::map<uint32_t, UniqueFd> roots) { nested_roots_ = std::move(roots); }
  // O_PATH descriptors of files whose path is hidden by other mounts.
  void set_hidden(std::map<uint32_t, UniqueFd> nodes) { hidden_ = std::move(nodes); }
  // That of a file, or -1.
  int hidden(uint32_t file_id) const;
  // Its network namespace (borrowed descriptor); sockets belong to one. Without
  // it they are made in ours.
  void set_network(int network_namespace) { network_ = network_namespace; }

  // An open file that isn't made but taken as it is.
  void give(uint32_t file_id, UniqueFd fd) { made_[file_id] = std::move(fd); }

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
  // epoll_ctl(epoll, EPOLL_CTL_ADD, fd, {events, data}). `task` is one of the image's.
  struct Watch {
    int epoll;
    int fd;
    uint32_t events;
    uint64_t data;
  };
  const std::vector<Watch>& watches(const image::TaskImage& task);

  // TCP connections, which go on when all else is in place.
  RestoredConnections& connections() { return connections_; }

  // Restores who gets SIGIO of which file, when all tasks exist: pid in the
  // container's root pid namespace -> pid in ours.
  void set_owners(const std::map<pid_t, pid_t>& tasks);

  // Both when all tasks exist. Sockets listen, and have the other ends that they
  // had from the beginning: before any goes into a task.
  void unite_sockets(UnixDoer& doer);
  // The rest: connections by name, what waits in them.
  void finish_sockets(const std::map<pid_t, pid_t>& tasks);

  // Closes all that it holds; to be done before the tasks run, or a pipe whose
  // writers are gone would never end.
  void close_all();

  // For the kinds.
  const image::Checkpoint& image() const { return image_; }
  const RestorePlan& plan() const { return plan_; }
  Log& log() { return log_; }
  const userns::IdMap& ids() const { return ids_; }
  // That its path leads from (borrowed); throws before set_root().
  int root_of(int mount) const;
  int root_of(const image::RegFileEntry& file) const;
  const std::map<uint32_t, image::FileEntry>& entries() const;
  const image::FileEntry& entry(uint32_t file_id) const;
  // The inherited descriptor (borrowed) that stands for `key`, or -1.
  int inherited(const std::string& key) const;
  // Kept until close_all(): pipes and fifos by pipe id, files without a name by remap.
  std::map<uint32_t, PipeEnds>& pipes() { return pipes_; }
  std::map<uint32_t, UniqueFd>& fifos() { return fifos_; }
  Terminals& terminals() { return terminals_; }
  std::map<std::pair<image::RemapType, uint32_t>, UniqueFd>& nameless() { return nameless_; }
  // All unix sockets, made when the first is asked for; what waits in sockets.
  UnixFamily& unix_family();
  std::map<uint32_t, MemoryFile>& memory_files() { return memory_files_; }  // by inode_id
  std::vector<PendingWatch>& pending_watches() { return pending_watches_; }
  Later& later() { return later_; }
  std::map<pid_t, Revenant>& revenants() { return revenants_; }         // until close_all()
  std::map<uint32_t, UniqueFd>& dead_pidfds() { return dead_pidfds_; }  // by file id
  // To be unlinked in the end: directory and name.
  std::vector<std::pair<UniqueFd, std::string>>& temporary_names() { return temporary_names_; }
  const std::vector<SocketPacket>& socket_packets();
  void in_network(const std::function<void()>& action) const;
  // What may only be done to a file when all others exist.
  void when_all_are_made(std::function<void()> action) { when_made_.push_back(std::move(action)); }
  // Notes F_SETOWN's part for set_owners(), does F_SETSIG's at once.
  void restore_owner(int fd, const image::FownEntry& owner);

 private:
  const image::Checkpoint& image_;
  const RestorePlan& plan_;
  Log& log_;
  userns::IdMap ids_;
  int root_ = -1, network_ = -1;
  std::map<uint32_t, UniqueFd> made_, hidden_, nested_roots_;
  std::map<uint32_t, PipeEnds> pipes_;
  std::map<uint32_t, UniqueFd> fifos_, dead_pidfds_;
  std::vector<PendingWatch> pending_watches_;
  std::vector<std::pair<UniqueFd, std::string>> temporary_names_;
  Later later_;
  std::map<pid_t, Revenant> revenants_;
  std::map<uint32_t, MemoryFile> memory_files_;
  std::unique_ptr<UnixFamily> unix_family_;
  std::optional<std::vector<SocketPacket>> packets_;
  std::optional<std::map<const image::TaskImage*, std::vector<Watch>>> watches_;
  std::map<std::pair<image::RemapType, uint32_t>, UniqueFd> nameless_;
  Terminals terminals_{*this};
  std::vector<std::pair<int, image::FownEntry>> owners_;
  RestoredConnections connections_;
  std::vector<std::function<void()>> when_made_;
};

}  // namespace stasis::engine::files
