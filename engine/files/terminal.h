// Terminals. What is common to all open files of one is written down once, and
// made again with the first of them.
#pragma once

#include <sys/types.h>

#include <map>
#include <set>
#include <tuple>
#include <vector>

#include "base/unique_fd.h"
#include "engine/files/pty.h"
#include "engine/plan.h"
#include "fdinfo.pb.h"
#include "files.pb.h"
#include "tty.pb.h"

namespace stasis::image {
struct Checkpoint;
}

namespace stasis::engine::files {

class Dumper;
class Restorer;
struct OpenFile;

// A session of the container, as /proc tells it.
struct Session {
  pid_t leader = 0;               // in our pid namespace
  uint32_t id = 0;                // in the container's; 0: outside of it
  unsigned terminal = 0;          // the controlling one, in the kernel's encoding; 0: none
  uint32_t foreground_group = 0;  // in the container's pid namespace; 0: none there
  std::set<pid_t> members;        // in our pid namespace
  bool has_member(pid_t pid) const { return members.contains(pid); }
};

class TerminalDump {
 public:
  void set_sessions(std::vector<Session> sessions) { sessions_ = std::move(sessions); }
  // The number that the terminal of an open file has in tty-info.img. The file
  // is looked at again in finish().
  uint32_t number_of(Dumper& dumper, const OpenFile& file);
  // Writes tty-info.img.
  void finish(Dumper& dumper);

 private:
  enum class Side { slave, master, current, hung };
  using Key = std::tuple<Side, uint64_t, unsigned>;
  struct Terminal {
    uint32_t number;
    const OpenFile* file;
  };
  static Key key_of(Dumper& dumper, const OpenFile& file);
  const Session* session_of(const Key& key, const OpenFile& file) const;
  image::TtyInfoEntry describe(Dumper& dumper, const Key& key, const Terminal& terminal) const;
  void add_closed_slave(Dumper& dumper, const image::TtyInfoEntry& master);
  bool add_unheld(Dumper& dumper, const Session& session);
  void store_data(Dumper& dumper, const Key& key, const Terminal& slave) const;

  std::vector<Session> sessions_;
  std::map<Key, Terminal> terminals_;
  std::set<uint32_t> numbers_;
};

// Throws where a terminal of the image can't come back under this plan. `there`:
// the restored container has them already; returns those that the image wants.
std::set<PtyId> check_terminals(const image::Checkpoint& checkpoint, const RestorePlan& plan,
                                const std::set<PtyId>& there = {});

// That is /dev/tty, which only its session can open.
bool is_current_terminal(const image::Checkpoint& checkpoint, const image::FileEntry& file);

class Terminals {
 public:
  explicit Terminals(Restorer& restorer) : restorer_(restorer) {}

  // Was needed while the mounts were built: the master of a new pty.
  void adopt(PtyId id, UniqueFd master) { ptys_[id].master = std::move(master); }
  // The container has these already, their masters are outside.
  void find_there(std::set<PtyId> there) { there_ = std::move(there); }

  UniqueFd make(const image::FileEntry& entry);

  // What makes a terminal the controlling one of a session.
  struct Control {
    pid_t session = 0;  // the leader, in the container's pid namespace
    pid_t foreground_group = 0;
    UniqueFd slave;
    std::vector<uint32_t> current;  // files that are /dev/tty, opened in the session
  };
  std::vector<Control> controls();
  std::string path(uint32_t file_id) const;
  uint32_t flags(uint32_t file_id) const;
  void take_current(uint32_t file_id, UniqueFd fd);

  // When all files are open: modes that would have kept us from opening them.
  void settle();
  // Keeps the masters that somebody outside is to have.
  void close_all();
  std::vector<UniqueFd> take_orphans() { return std::move(orphans_); }

 private:
  struct Pty {
    UniqueFd master;  // none: outside
    bool ready = false, set_up = false, taken = false, orphan = false;
    std::map<uint32_t, UniqueFd> hung;  // files of it that were hung up
  };
  Pty& pty_of(const image::TtyInfoEntry& info);
  void hang_up(PtyId id, Pty& pty);
  const image::TtyInfoEntry* living(PtyId id) const;
  UniqueFd open_master(const image::TtyInfoEntry& info);
  UniqueFd open_slave(const image::FileEntry& entry, const image::TtyInfoEntry& info);
  UniqueFd make_hung(const image::FileEntry& entry, const image::TtyInfoEntry& info);
  UniqueFd open_control(const image::TtyInfoEntry& info);
  void restore_modes(int slave, const image::TtyInfoEntry& info, const image::RegFileEntry& path);

  Restorer& restorer_;
  std::map<PtyId, Pty> ptys_;
  std::set<PtyId> there_;
  std::vector<UniqueFd> orphans_;
};

}  // namespace stasis::engine::files
