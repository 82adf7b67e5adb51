// The mount map: every mount of a container, and whose it is. A mount is the
// container's root, its own (made anew at a restore), or external: it belongs
// to the host and must be bound again from there. External mounts are known by
// what they are (superblock, root, inode), not by path alone.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mountmap/identity.h"
#include "mountmap/mount_provider.h"
#include "mountmap/mount_table.h"
#include "oci/config.h"

namespace stasis::mountmap {

enum class MountClass { root, own, external, provided, skipped };
enum class ExternalKind { none, directory, file, masked, device, cgroup };

// What a rule of the policy wants done with a mount (mountmap/policy.h).
enum class Action { keep, remap, content, recreate, skip, refuse };

struct MapRow {
  Mount mount;
  MountClass kind = MountClass::own;
  ExternalKind external = ExternalKind::none;
  std::string key;     // of an external mount: its name in the image
  std::string source;  // the host's path, symbolic links not resolved
  std::string reason;  // why it is so, for people
  FileIdentity root;   // of the mount's root; unknown for hidden mounts
  Action action = Action::keep;
  std::string rule;                  // where the rule stands that decided, empty: none did
  bool configured = false;           // config.json names it
  ProvidedMount provided;            // who makes it, or could make it, again; else no name
  std::vector<std::string> details;  // of that
  std::string remapped;  // what a restore on this host would bind in place of the source
};

enum class Severity { note, warning, obstacle };

struct MapFinding {
  Severity severity = Severity::note;
  std::string subject, what, remedy;
  int mount = 0;       // the id of the mount it is about, 0: of none
  std::string rule{};  // the policy's rule that it comes from, if it does
};

struct MountMap {
  MountTable table;
  std::vector<MapRow> rows;  // in the table's order
  std::vector<MapFinding> findings;

  // mount id -> key, as engine::DumpPlan wants it.
  std::map<int, std::string> external_mounts() const;
  // Likewise: left out; taken into the image though not the container's own;
  // made anew, empty.
  std::set<int> skipped_mounts() const;
  std::map<int, bool> content_mounts() const;  // whether it shows a directory
  std::set<int> recreated_mounts() const;
  std::map<int, ProvidedMount> provided_mounts() const;
};

struct MapInput {
  const MountTable& container;
  const MountTable& host;               // of the process that runs the engine
  const oci::Config* config = nullptr;  // nothing known: classified by the tables alone
  bool cgroup_namespace = false;        // the container has one of its own
  // A destination with the container's symbolic links resolved; may be empty.
  std::function<std::string(const std::string&)> resolve;
};

// The map by the tables alone: no file is touched.
MountMap make_map(const MapInput& input);

// What config.json alone tells: for a container that has no mounts yet. Rows
// have no mount id.
MountMap map_config(const oci::Config& config);

// The sources that a container had when it was created, by key.
using SourceRecord = std::map<std::string, FileIdentity>;

// Looks at the roots of the external mounts, below the container's root
// directory `root` (a descriptor), and at all sources, and adds findings:
// missing, replaced, another kind of file, a symbolic link. Before a freeze only.
void examine_sources(MountMap& map, int root, const SourceRecord* created);

// The same for a map that comes from config.json alone: its sources as they
// are now are what a mount will show.
void examine_config(MountMap& map);

// The mountpoint that a path with the container's symbolic links leads to;
// `root` is a descriptor of its root directory. Empty where no mount stands.
std::string resolve_inside(int root, const MountTable& table, const std::string& path);

struct Policy;
struct PolicySubject;

// A policy, and for whom it decides.
struct PolicyView {
  const Policy& policy;
  const PolicySubject& subject;
};

// The map of a live process, the policy applied, sources examined. `rootfs`: where its root will
// be while it has not pivoted there yet (in a hook); no rows when nothing is
// mounted there.
MountMap map_process(pid_t pid, const oci::Config* config, const SourceRecord* created,
                     std::string rootfs = "/", const PolicyView* policy = nullptr);

}  // namespace stasis::mountmap
