// Writes down what the container's processes hold open. Everything is examined
// from outside, on duplicates of the descriptors; all tasks stand still.
#pragma once

#include <sys/types.h>

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/unique_fd.h"
#include "engine/files/connections.h"
#include "engine/files/file_kind.h"
#include "engine/files/locks.h"
#include "engine/files/probe.h"
#include "engine/files/terminal.h"
#include "engine/namespaces/userns.h"
#include "engine/plan.h"
#include "fdinfo.pb.h"
#include "unix_more.pb.h"

namespace stasis::image {
class ImageWriter;
}

namespace stasis::engine::files {

// One open file of the container: a duplicate of ours and how it was found.
struct OpenFile {
  uint32_t id = 0;
  UniqueFd fd;
  Probe probe;  // of the first descriptor that led to it
  const FileKind* kind = nullptr;
  image::FileEntry entry;
};

class Dumper {
 public:
  Dumper(const DumpPlan& plan, image::ImageWriter& writer, Log& log);
  ~Dumper();
  Dumper(const Dumper&) = delete;
  Dumper& operator=(const Dumper&) = delete;

  // Writes fdinfo-FILES_ID.img. Processes that share a descriptor table have
  // one files_id: the second call with the same one does nothing.
  void descriptors(pid_t pid, int pidfd, uint32_t files_id);

  struct PathFile {
    uint32_t id = 0;
    image::FdTypes type = image::REG;
  };
  // A file that is held otherwise than by a descriptor, written down
  // as opened with `flags`: "/proc/17/exe", "/proc/17/cwd", "/proc/17/map_files/a-b".
  PathFile path_file(pid_t pid, const std::string& proc_link, uint32_t flags);

  // What waits in unix sockets. Files that are under way are seen here first.
  void queues();
  // Takes the content of pipes and writes files.img and what belongs to it.
  // Closes all duplicates: the tasks may go on afterwards.
  void finish();
  // Those that are to live on elsewhere.
  DumpedConnections& connections() { return connections_; }

  // For the kinds.
  const DumpPlan& plan() const { return plan_; }
  image::ImageWriter& writer() { return writer_; }
  Log& log() { return log_; }
  const Surroundings& around() const { return around_; }
  const userns::IdMap& ids() const { return ids_; }
  // Of the container's network namespace, in the image.
  uint32_t network_id();
  // The id of a file that travels in the queue of a socket, first seen as `holder`'s.
  uint32_t in_flight(UniqueFd fd, const Probe& holder);
  TerminalDump& terminals() { return terminals_; }
  // By inode, how sockets of UDP were shut down.
  const std::map<uint32_t, int>& udp_shutdowns();
  // These must be in the checkpoint, too: a deleted file that is open, by device
  // and inode; a process.
  void expect_ghost(uint64_t device, uint64_t inode, const Probe& holder) {
    expected_ghosts_[{device, inode}] = holder;
  }
  void expect_process(pid_t pid, const Probe& holder) { expected_processes_[pid] = holder; }
  void check_processes(const std::set<pid_t>& dumped) const;
  uint32_t next_id() { return ++last_id_; }
  // What stasis-unix.img says of a unix socket.
  image::UnixMoreEntry& unix_more(uint32_t inode) { return unix_more_[inode]; }
  // The processes whose descriptors have been written down.
  const std::vector<pid_t>& holders() const { return holders_; }
  // A file entry beside the one being dumped (a fifo's path).
  void add_entry(image::FileEntry entry);
  // Ghost file ids by (device, inode): one image however often it is open.
  std::map<std::pair<uint64_t, uint64_t>, uint32_t>& ghosts() { return ghosts_; }
  // The same of memory files; what they hold is for the caller to write.
  std::map<std::pair<uint64_t, uint64_t>, uint32_t>& memory_inodes() { return memory_inodes_; }
  void add_memory(uint32_t shmid, UniqueFd content) {
    memory_.emplace_back(shmid, std::move(content));
  }
  std::vector<std::pair<uint32_t, UniqueFd>> take_memory() { return std::exchange(memory_, {}); }

 private:
  void find_peers();
  void check_ghosts() const;
  OpenFile& identify(UniqueFd duplicate, Probe probe);
  void note_locks(const Probe& probe, uint32_t table, const OpenFile& file, bool is_new);

  const DumpPlan& plan_;
  image::ImageWriter& writer_;
  Log& log_;
  Surroundings around_;
  userns::IdMap ids_;
  uint32_t last_id_ = 0;
  std::vector<std::unique_ptr<OpenFile>> open_files_;
  // Candidates for "the same open file", in the kernel's kcmp order.
  using Key = std::tuple<uint64_t /*device*/, uint64_t /*inode*/, int /*flags*/>;
  std::map<Key, std::vector<OpenFile*>> by_identity_;
  std::map<std::tuple<std::string, uint64_t, uint64_t, int, uint32_t>, PathFile> path_files_;
  std::map<std::pair<uint64_t, uint64_t>, uint32_t> ghosts_, memory_inodes_;
  std::vector<std::pair<uint32_t, UniqueFd>> memory_;  // by shmid
  TerminalDump terminals_;
  std::map<uint32_t, image::UnixMoreEntry> unix_more_;
  std::map<std::pair<uint64_t, uint64_t>, Probe> expected_ghosts_;
  std::map<pid_t, Probe> expected_processes_;
  FoundLocks locks_;
  std::vector<image::FileEntry> more_entries_;
  std::set<uint32_t> tables_done_;
  std::vector<pid_t> holders_;
  DumpedConnections connections_;
  std::optional<std::map<uint32_t, int>> udp_shutdowns_;  // both read when first asked for
  std::optional<uint32_t> network_id_;
};

}  // namespace stasis::engine::files
