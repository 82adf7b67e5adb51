// All unix sockets of an image together: none of them comes back alone, as each
// may have its peer, its listener or its sender in another.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "engine/files/unix_doer.h"
#include "engine/files/unix_name.h"
#include "sockets.pb.h"
#include "unix_more.pb.h"

namespace stasis::engine::files {

class Restorer;
struct SocketPacket;

class UnixFamily {
 public:
  explicit UnixFamily(Restorer& restorer);

  // Every socket has its descriptor and, where it stands alone, its name. The
  // descriptors stay what they are, whatever is done to them later.
  void make();
  UniqueFd take(uint32_t inode);
  // Listening, or with the other end that it had from the beginning.
  void unite(UnixDoer& doer);
  // Connected, filled and with its options. `tasks`: pid in the container -> in ours.
  void finish(const std::map<pid_t, pid_t>& tasks);

 private:
  struct Member {
    const image::UnixSkEntry* entry = nullptr;
    const image::UnixMoreEntry* more = nullptr;
    Member* peer = nullptr;  // null: none, or one outside
    UniqueFd own;            // until somebody takes it
    int fd = -1;
    bool given = false;      // inherited: it is as it should be
    bool connected = false;  // to its peer
    UniqueFd lost;           // the other end, which was closed; needed for refilling

    bool packets() const;
    bool listens() const;
    bool mutual() const { return peer && peer != this && peer->peer == this; }
    bool waits_to_be_accepted() const { return peer && peer->listens(); }
    bool half() const;  // its other end was closed
    bool pair() const;  // made together with its peer
    bool named() const { return !entry->name().empty(); }
  };

  struct Sender {
    int fd = -1;
    UniqueFd own;
  };
  Sender sender_of(Member& receiver, const std::string& name);
  UniqueFd socket(const Member& member) const;
  void replace(Member& member, UniqueFd made) const;
  void find_peers();
  void pair_up(Member& one, Member& other);
  void accept_as(Member& accepted, Member& client, int client_fd);
  void unite(Member& member);
  void unite_streams(Member& member);
  void connect(Member& member);
  void check_outside(const Member& member) const;
  void connect_outside(Member& member);
  void lose_other_end(Member& member);
  void fill(Member& member, const std::map<pid_t, pid_t>& tasks);
  void settle(Member& member);
  std::string path_of(const Member& member) const;
  Member* listener_of(const Member& accepted);
  image::UnixDoerEntry doer_of(const Member& member) const;
  image::UnixDoerEntry holder_of(const Member& member) const;
  std::vector<Member*> in_order_of_waiting();
  Member* sender_named(const std::string& name);
  bool is_client(const Member& one, const Member& other);

  Restorer& restorer_;
  UnixDoer* doer_ = nullptr;
  UnixNames names_;
  std::map<uint32_t, image::UnixMoreEntry> more_;                // by inode
  std::map<uint32_t, Member> members_;                           // by inode
  std::map<uint32_t, const image::UnixSkEntry*> outside_;        // by inode
  std::map<uint32_t, std::vector<const SocketPacket*>> queues_;  // by file
};

}  // namespace stasis::engine::files
