// The kinds of open file that can be written down and made again: one row each
// in file_kinds(), whose functions stand together in one source file.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>

#include "base/unique_fd.h"
#include "engine/files/pty.h"
#include "engine/files/unix_diag.h"
#include "fdinfo.pb.h"

namespace stasis::engine {
struct DumpPlan;
namespace mounts {
struct Place;
struct Space;
}  // namespace mounts
namespace files {

class Dumper;
class Restorer;
struct OpenFile;
struct Probe;

// The container as seen from outside, before the freeze as well as after it.
class Surroundings {
 public:
  explicit Surroundings(const DumpPlan& plan);
  const DumpPlan& plan() const { return plan_; }
  // O_PATH descriptor of the / of a mount namespace of the container.
  int root(const mounts::Space& space) const;
  // O_PATH descriptor of a mount's root, seen without what covers it. Throws
  // where that is no directory.
  int view(const mounts::Place& place) const;
  // Of its network namespace; read when first asked for, and again where `anew`.
  const UnixSockets& unix_sockets(bool anew = false) const;
  const UnixSockets& host_unix_sockets() const;  // of ours
  // A process that has this socket, where none of the container has it. None
  // for one that nobody has, as it may travel in the queue of another.
  std::optional<pid_t> held_outside(uint32_t inode) const;
  const PtyEnds& ptys() const;  // read when first asked for

 private:
  const DumpPlan& plan_;
  mutable std::map<pid_t, UniqueFd> roots_;
  mutable std::optional<UnixSockets> unix_sockets_, host_unix_sockets_;
  mutable std::optional<PtyEnds> ptys_;
  mutable std::map<uint64_t, pid_t> holders_;  // of all sockets; filled when first asked for
  mutable std::map<int, UniqueFd> views_;      // by mount
};

// Why a file can't be dumped, and what to do about it.
struct Objection {
  std::string what;  // completes "process 17 (redis) holds NAME open as descriptor 6"
  std::string remedy;
};

struct FileKind {
  const char* name;  // with its article: "a pipe"
  image::FdTypes type;
  bool (*claims)(const Probe&);
  // Asked before the freeze; dump() throws for the same reasons. Null: never objects.
  std::optional<Objection> (*objection)(const Probe&, const Surroundings&);
  void (*dump)(Dumper&, const OpenFile&, image::FileEntry&);
  UniqueFd (*make)(Restorer&, const image::FileEntry&);
};

std::span<const FileKind* const> file_kinds();
const FileKind* kind_of(const Probe& probe);   // null: none claims it
const FileKind* kind_of(image::FdTypes type);  // null: can't be made again

// What stands in the way of dumping this descriptor: its kind as such, and
// (with the surroundings) this very file.
std::optional<Objection> objection_to(const Probe& probe);
std::optional<Objection> objection_to(const Probe& probe, const Surroundings& around);

extern const FileKind regular_kind, pipe_kind, fifo_kind, eventfd_kind, timerfd_kind, signalfd_kind,
    epoll_kind, unix_kind, inet_kind, netlink_kind, packet_kind, memfd_kind, inotify_kind,
    pidfd_kind, nsfile_kind, terminal_kind;

}  // namespace files
}  // namespace stasis::engine
