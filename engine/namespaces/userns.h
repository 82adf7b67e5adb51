// The container's user namespace: which ids inside stand for which ids outside,
// writing that down and making it again. Images hold ids as seen inside.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "engine/image/checkpoint.h"

namespace stasis::engine::userns {

// "First inside, first outside, count" a line, as /proc/PID/uid_map has it.
google::protobuf::RepeatedPtrField<image::UidGidExtent> parse_map(std::string_view text);
std::string to_text(const google::protobuf::RepeatedPtrField<image::UidGidExtent>& map);

// Without a user namespace of its own, ids are the same inside and outside.
class IdMap {
 public:
  IdMap() = default;
  explicit IdMap(std::optional<image::UsernsEntry> maps) : maps_(std::move(maps)) {}
  // Of the user namespace of a process, which may be our own. 0: ours.
  static IdMap of(pid_t pid);

  const std::optional<image::UsernsEntry>& maps() const { return maps_; }

  // An id that isn't mapped can't be named inside: nothing, or an Error about `subject`.
  // The highest number stands for "none" and for itself.
  std::optional<uint32_t> find_uid_inside(uint32_t uid) const;
  std::optional<uint32_t> find_gid_inside(uint32_t gid) const;
  uint32_t uid_inside(uint32_t uid, const std::string& subject) const;
  uint32_t gid_inside(uint32_t gid, const std::string& subject) const;
  uint32_t uid_outside(uint32_t uid, const std::string& subject) const;
  uint32_t gid_outside(uint32_t gid, const std::string& subject) const;

 private:
  std::optional<image::UsernsEntry> maps_;
};

// Why a container with these maps couldn't be made again; empty: it can.
std::string trouble_with(const image::UsernsEntry& maps);

// From outside, right after a task was cloned into its new user namespace.
void write_maps(const image::UsernsEntry& maps, pid_t pid);

// A user namespace with these maps that nobody is in.
UniqueFd make(const image::UsernsEntry& maps);

// The task itself, then: root inside, with all capabilities there.
void become_root();

// Runs `action` in a process for this alone, which is in the user namespace of
// another one and has our descriptors: no thread may enter one. What it opens is
// ours; returns what it returned.
std::string in_user_namespace(pid_t pid, const std::function<std::string()>& action);

// Owner of the namespace behind a /proc/PID/ns link (an inode of /proc/PID/ns/user).
uint64_t owner_of(const std::string& link);

// While it lives, what this thread creates belongs to root inside, and it keeps
// all it may itself.
class CreateAsRoot {
 public:
  explicit CreateAsRoot(const IdMap& map);
  ~CreateAsRoot();
  CreateAsRoot(const CreateAsRoot&) = delete;
  CreateAsRoot& operator=(const CreateAsRoot&) = delete;

 private:
  bool changed_ = false;
  long securebits_ = 0;
};

}  // namespace stasis::engine::userns
