// The policy file: what its administrator wants done with a container's mounts.
// Rules over destination, source, type and annotations, of which the first that
// matches decides; behind those of the file come the built-in ones.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mountmap/mount_map.h"
#include "oci/config.h"

namespace stasis::mountmap {

constexpr const char* default_policy_path = "/etc/stasis/policy.yaml";

struct PolicyRule {
  // Globs ("*" within a path's part, "**" across parts, "?"), one of which has
  // to match; none: anything does.
  std::vector<std::string> destinations, sources, types;
  std::map<std::string, std::string> annotations;  // name -> glob; all have to match
  Action action = Action::keep;
  std::string path;   // of remap: with placeholders
  std::string why;    // for people
  std::string place;  // "/etc/stasis/policy.yaml:12", "built-in rule"
};

struct Policy {
  std::vector<PolicyRule> rules;
  std::vector<std::string> checkpoints;  // where annotations may name a checkpoint
  bool any_checkpoint = false;           // ... or anywhere else, by an absolute path
  std::string plugins;                   // directory of plugins; empty: the default one
  std::optional<uint64_t> ghost_limit;   // bytes of one deleted file taken along
  std::optional<uint64_t> size_limit;    // bytes of one mount's data taken by `content`
};

// `name` stands in errors: "NAME:LINE:COLUMN: ...".
Policy parse_policy(std::string_view text, const std::string& name);

const Policy& builtin_policy();

// The file's rules and then the built-in ones; these alone where there is no
// file. A file that another than root could have written is refused, unless it
// is only being tried (`trusted` false).
Policy load_policy(const std::string& path = default_policy_path, bool trusted = true);

// What rules are held against and placeholders filled from.
struct PolicySubject {
  std::string id;
  const oci::Config* config = nullptr;  // where known
};

struct MountFacts {
  std::string destination, source, type;
};
const PolicyRule* decide(const Policy& policy, const MountFacts& mount,
                         const PolicySubject& subject);

// The path of a remap rule with its placeholders filled in. Throws Error where
// a value is missing, or would lead elsewhere.
std::string remapped_path(const PolicyRule& rule, const MountFacts& mount,
                          const PolicySubject& subject);

// What an annotation names, with its placeholders filled in: those of a remap rule that
// aren't of a mount. Throws Error as above.
std::string checkpoint_name(const std::string& name, const PolicySubject& subject);

// Lets the rules decide on every row but the root and those that confine the
// container (masked and read-only paths); findings of what can't be done.
// Before examine_sources(), which passes over what is no longer external.
void apply_policy(MountMap& map, const Policy& policy, const PolicySubject& subject);

// Looks at what the rows with action content hold: whether it can be taken,
// and whether it is no more than the policy allows. `root` as for
// examine_sources(). Before a freeze only.
void examine_content(MountMap& map, int root, const Policy& policy);

bool glob_matches(std::string_view glob, std::string_view text);

}  // namespace stasis::mountmap
