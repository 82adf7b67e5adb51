// What the engine is asked to do. All decisions are made before, by the doors
// and by mountmap/; the engine takes a plan and carries it out. It knows
// nothing of OCI.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/unique_fd.h"
#include "mountmap/mount_table.h"

namespace stasis::engine {

struct RestoreResult;

// The moments of CRIU's RPC notifications, in their order. A door that has
// nobody to tell keeps the defaults. A throw aborts the operation.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void pre_dump() {}
  virtual void network_lock() {}
  virtual void query_external_files() {}
  virtual void post_dump() {}
  virtual void pre_restore() {}
  virtual void setup_namespaces(pid_t /*root*/) {}       // namespaces exist, nothing in them yet
  virtual void post_setup_namespaces(pid_t /*root*/) {}  // mounts and all are built
  virtual void orphan_pts_master(int /*master_fd*/) {}
  virtual void post_restore(pid_t /*root*/) {}  // every task is whole, none runs
  virtual void network_unlock() {}
  virtual void pre_resume(pid_t /*root*/) {}
  virtual void post_resume(pid_t /*root*/) {}
  // The last moment of a restore: all is done but letting the tasks go. Whoever
  // waits for the outcome is told here: should the engine die before the tasks
  // run they die with it, and nothing is left that nobody knows of.
  virtual void restored(const RestoreResult& /*result*/) {}
  // Bytes of memory written or filled so far, of an estimated total.
  virtual void progress(uint64_t /*done*/, uint64_t /*total*/) {}
};

// How a cgroup that is to be frozen is reached: its directory in a v1 freezer
// hierarchy or in the v2 hierarchy.
struct DumpPlan {
  pid_t root = 0;                              // the container's init, pid in our namespace
  std::string freeze_cgroup;                   // absolute directory; empty: no freezer, ptrace only
  mountmap::MountTable mounts;                 // of the root task
  std::map<int, std::string> external_mounts;  // mount id -> key written to the image
  std::set<int> skipped_mounts;                // mount ids left out
  // Mounts of the host's file systems, not external: their data comes back in
  // one of the container's own. Mount id -> shows a directory, not a file.
  std::map<int, bool> content_mounts;
  std::set<int> recreated_mounts;                       // mount ids; come back empty
  std::map<uint64_t, std::string> external_namespaces;  // ns inode -> key ("extRootNetNS")
  bool leave_running = false;
  bool durable = false;  // the image is on disk before any task is killed
  bool shell_job = false;
  bool tcp_established = false;
  bool file_locks = false;
  bool ext_unix_sk = false;
  bool orphan_pts_master = false;
  bool manage_cgroups = true;
  bool empty_netns =
      false;  // CRIU's empty_ns = CLONE_NEWNET: network content is the caller's business
  uint64_t ghost_limit = 1 << 20;  // bytes of one deleted file taken into the image
  unsigned workers = 2;            // threads that copy memory
};

// An external mount that a restore is about to bind.
struct ExternalMount {
  std::string key, mountpoint, type;  // type: "" where the image doesn't tell
  std::string source;                 // that the plan gives for the key; empty: none
};

struct RestorePlan {
  std::string root;  // directory that becomes the container's /; a mount point
  std::map<std::string, std::string>
      external_mounts;  // key in the image -> source path on the host
  // Where set, it has the last word on the source; may throw.
  std::function<std::string(const ExternalMount&)> choose_source;
  std::map<std::string, int> inherited_fds;  // key ("pipe:[123]", "extRootNetNS") -> our descriptor
  std::map<std::string, std::string>
      cgroup_roots;      // controller ("" for all) -> path below its root
  bool sibling = false;  // the root task becomes a child of our parent (CRIU's rst_sibling)
  bool shell_job = false;
  bool tcp_established = false;
  bool file_locks = false;
  bool ext_unix_sk = false;
  bool orphan_pts_master = false;
  bool manage_cgroups = true;
  bool empty_netns = false;
  std::string lsm_profile;  // "selinux:LABEL", "apparmor:PROFILE", or empty: the image's own
  std::string lsm_mount_context;
  std::string pidfile;  // written with O_EXCL when set
  unsigned workers = 2;
};

struct DumpResult {
  uint64_t pages_scanned = 0, pages_written = 0, pages_skipped_parent = 0, shared_pages_written = 0;
  uint32_t freezing_us = 0, frozen_us = 0, memory_us = 0, write_us = 0;
};

struct RestoreResult {
  pid_t root = 0;  // in our pid namespace
  uint64_t pages_restored = 0;
  uint32_t forking_us = 0, restore_us = 0;
};

// Writes the container down into `image_dir` (a directory descriptor; created
// files are unlinked again on failure, inventory.img comes last). On failure
// every task goes on as before. Throws Error.
DumpResult dump(const DumpPlan& plan, int image_dir, Observer& observer, Log& log);

// Brings back what `image_dir` holds. On failure nothing is left behind.
RestoreResult restore(const RestorePlan& plan, int image_dir, Observer& observer, Log& log);

// What stands in the way of dump(plan), found without touching a task: one
// finding per obstacle. Empty when nothing does.
struct Finding {
  std::string subject;  // "process 17 (python3)"
  std::string what;     // "has an io_uring open"
  std::string remedy;
};
std::vector<Finding> obstacles(const DumpPlan& plan);

}  // namespace stasis::engine
