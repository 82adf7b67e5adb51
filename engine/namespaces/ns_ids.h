// Which namespaces the container has, by inode, and the numbers the image
// gives them. The engine's own are numbered first: a kind whose number is the
// engine's is not the container's own.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <map>
#include <string_view>

#include "core.pb.h"

namespace stasis::engine::namespaces {

struct Kind {
  std::string_view name;   // in /proc/PID/ns
  uint64_t flag;           // CLONE_NEW*
  std::string_view words;  // for people
};
inline constexpr size_t kind_count = 8;
extern const std::array<Kind, kind_count> kinds;

// The inodes of one task's namespaces, by index into `kinds`; 0: the kernel
// has no such kind.
using Inodes = std::array<uint64_t, kind_count>;
Inodes inodes_of(pid_t pid);  // 0: ourselves

class NsIds {
 public:
  explicit NsIds(pid_t root);

  // CLONE_NEW* of the kinds that are the container's own.
  uint64_t own() const { return own_; }
  bool own(uint64_t flag) const { return (own_ & flag) != 0; }
  uint64_t inode(uint64_t flag) const;  // of the root task
  uint32_t id(uint64_t flag) const;

  // A mount namespace that processes of the container have of their own, by its
  // inode, gets a number. Others that are nested can't be dumped.
  uint32_t admit_mounts(uint64_t inode);

  // The *_ns_id fields. Throws an Error naming the process when it isn't in
  // the root task's namespaces or in one that was admitted. A zombie is in none
  // and gets the root's.
  void fill(pid_t pid, image::TaskKobjIdsEntry& ids) const;
  // Of the engine itself, for InventoryEntry.root_ids.
  void fill_engine(image::TaskKobjIdsEntry& ids) const;

 private:
  void set(const std::array<uint32_t, kind_count>& numbers, image::TaskKobjIdsEntry& ids) const;

  Inodes root_;
  std::array<uint32_t, kind_count> root_ids_{}, engine_ids_{};
  std::map<uint64_t, uint32_t> nested_mounts_;
  uint32_t last_id_ = 0;
  uint64_t own_ = 0;
};

}  // namespace stasis::engine::namespaces
