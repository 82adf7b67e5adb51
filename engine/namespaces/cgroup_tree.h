// The cgroup hierarchies of this machine and tasks' places in them.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"

namespace stasis::engine::cgroup {

struct Hierarchy {
  std::string name;                      // "cpu,cpuacct", "name=systemd"; empty: cgroup v2
  std::vector<std::string> controllers;  // name's parts
  UniqueFd root;                         // its root directory

  bool v2() const { return name.empty(); }
};

// Those that the kernel has, opened through mounts of our own that nobody else
// sees: whether and where they are mounted doesn't matter.
class Hierarchies {
 public:
  Hierarchies();
  const std::vector<Hierarchy>& all() const { return all_; }
  // The one of that name, parts in any order; null when the kernel has none.
  const Hierarchy* find(std::string_view name) const;

 private:
  std::vector<Hierarchy> all_;
};

struct Member {
  std::string name;   // of the hierarchy
  std::string path;   // from its root, begins with a slash
  size_t prefix = 0;  // length of the part that a cgroup namespace hides

  bool operator==(const Member&) const = default;
};
using Membership = std::vector<Member>;  // by name

// The text of /proc/PID/cgroup. A place outside our cgroup namespace or in a
// removed cgroup throws Error naming `subject`.
Membership parse_membership(std::string_view text, std::string_view subject);

// Sets every member's prefix: `inside` is the same task's text as it sees it.
void set_prefixes(Membership& members, std::string_view inside);

// "/a/b" is at or below "/a".
bool is_below(std::string_view path, std::string_view directory);
// The deepest directory that holds both.
std::string common_directory(std::string_view a, std::string_view b);
// Joins two absolute paths; neither result nor parts end in a slash, except "/".
std::string join(std::string_view directory, std::string_view rest);

// The files of a cgroup directory that are written down and put back, in the
// order of putting back. No others: an image must not reach what is host-wide
// (release_agent) or widens access (devices.allow).
const std::vector<std::string>& properties(const Hierarchy& hierarchy);

// "/a/b" below the hierarchy's root as a path relative to it: "a/b", "." for "/".
std::string relative(std::string_view path);

// A path of an image: absolute, without empty, "." or ".." parts.
void check_path(std::string_view path);

}  // namespace stasis::engine::cgroup
