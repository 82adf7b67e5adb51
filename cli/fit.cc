#include "cli/fit.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <set>

#include "cli/image_view.h"
#include "engine/mounts/fs_types.h"
#include "engine/mounts/mounts.h"
#include "engine/mounts/tree.h"
#include "hook/user_fit.h"
#include "kernel/fs.h"
#include "mountmap/config_key.h"
#include "mountmap/paths.h"
#include "rpc/externals.h"
#include "rpc/option_names.h"
#include "rpc/plans.h"
#include "rpc/policy.h"
#include "rpc/server.h"

namespace stasis::cli {
namespace {

using image::MntEntry;
using mountmap::MapFinding;
using mountmap::Severity;

// The key that CRIU gives to mounts that it found by itself.
using engine::found_automatically;

// runc has these as devices whatever config.json says.
constexpr std::array default_devices{"/dev/null", "/dev/zero",   "/dev/full",
                                     "/dev/tty",  "/dev/random", "/dev/urandom"};

const char* kind_name(bool directory) { return directory ? "directory" : "file"; }

const std::vector<MntEntry>& root_mounts(const image::Checkpoint& image) {
  static const std::vector<MntEntry> none;
  if (image.tasks.empty()) return none;
  auto found = image.mounts.find(image.root().ids.mnt_ns_id());
  return found == image.mounts.end() ? none : found->second;
}

std::string key_in(const MntEntry& entry, const std::string& key) {
  return key == found_automatically ? entry.mountpoint() : key;
}

// "/etc/hosts//deleted" is not below "/etc/hosts".
bool is_below(const std::string& path, const std::string& directory) {
  return path.size() > directory.size() + 1 && path.starts_with(directory) &&
         path[directory.size()] == '/' && path[directory.size() + 1] != '/';
}

class Comparison {
 public:
  Comparison(const image::Checkpoint& image, const oci::Config& config,
             const std::vector<RecordedSource>& recorded, const std::string& id)
      : image_(image),
        config_(config),
        recorded_(recorded),
        subject_{id, &config},
        mounts_(root_mounts(image)),
        given_(given_sources(config)) {
    for (const MntEntry& entry : mounts_) ids_.insert(entry.mnt_id());
  }

  std::vector<MapFinding> run() {
    findings_ = hook::compare_users(image_, config_);
    if (mounts_.empty()) return std::move(findings_);  // in the dumper's own mount namespace
    compare_tree();
    compare_root();
    for (const Wanted& wanted : wanted_sources(image_)) compare_external(wanted);
    for (const oci::ConfigMount& mount : config_.mounts) compare_configured(mount);
    return std::move(findings_);
  }

 private:
  void find(Severity severity, const std::string& point, std::string what, std::string remedy) {
    findings_.push_back({severity, "mount " + point, std::move(what), std::move(remedy)});
  }

  // Whatever the bundle says, the engine must be able to build the tree.
  void compare_tree() {
    try {
      engine::mounts::plan_tree(mounts_, engine::mounts::stored_devices(image_));
    } catch (const Error& error) {
      findings_.push_back({Severity::obstacle, "mount " + error.subject(),
                           "can't be built again: " + error.cause(), error.remedy()});
    }
  }

  bool is_root(const MntEntry& entry) const { return !ids_.contains(entry.parent_mnt_id()); }

  void compare_root() {
    auto root = mountmap::identify(config_.root_path);
    if (!root || !root->directory)
      find(Severity::obstacle, "/",
           fmt::format("has no directory to come from: {}{}", config_.root_path,
                       root ? " is none" : " is gone"),
           "correct root.path in config.json");
    for (const MntEntry& entry : mounts_)
      if (is_root(entry)) compare_access(entry, config_.root_readonly);
  }

  void compare_access(const MntEntry& entry, bool wants_read_only) {
    bool is_read_only = (entry.flags() & MS_RDONLY) != 0;
    if (is_read_only == wants_read_only) return;
    // Never less confined than the configuration at hand says.
    find(wants_read_only ? Severity::obstacle : Severity::warning, entry.mountpoint(),
         fmt::format("is {} in the checkpoint and comes back so, though config.json says {}",
                     is_read_only ? "read-only" : "writable",
                     wants_read_only ? "read-only" : "writable"),
         wants_read_only ? "make it writable in config.json, or checkpoint it read-only" : "");
  }

  void compare_external(const Wanted& wanted) {
    const std::string& point = wanted.entry->mountpoint();
    auto given = given_.find(wanted.key);
    if (given != given_.end()) used_.insert(wanted.key);
    if (decided_by_policy(wanted, given == given_.end() ? "" : given->second.source)) return;
    if (given == given_.end()) return refuse_unnamed(wanted);
    const std::string& source = given->second.source;
    auto now = mountmap::identify(source);
    if (!now)
      return find(Severity::obstacle, point, fmt::format("has no source: {} is gone", source),
                  "put it back" + or_map(wanted.key));
    compare_kind(wanted, source, now->directory);
    if (!given->second.mount) return;
    compare_record(wanted, source, *now);
    compare_access(*wanted.entry, given->second.mount->read_only());
  }

  bool decided_by_policy(const Wanted& wanted, const std::string& given) {
    const std::string& point = wanted.entry->mountpoint();
    std::string source;
    try {
      source = rpc::decided_source(policy_, subject_, host_,
                                   {.key = wanted.key,
                                    .mountpoint = point,
                                    .type = engine::mounts::type_name(*wanted.entry),
                                    .source = given});
    } catch (const Error& error) {
      find(Severity::obstacle, point, "can't be bound: " + error.cause(), error.remedy());
      return true;
    }
    if (source == given) return false;
    auto now = mountmap::identify(source);
    if (now)
      compare_kind(wanted, source, now->directory);
    else
      find(Severity::obstacle, point,
           fmt::format("has no source: the policy names {}, which isn't there", source),
           "make it, or change the rule");
    find(Severity::note, point, fmt::format("comes from {}, as the policy has it", source), "");
    return true;
  }

  static std::string or_map(const std::string& key) {
    return fmt::format(", or restore with --map {}=SOURCE", key);
  }

  void refuse_unnamed(const Wanted& wanted) {
    std::string type;
    for (const oci::ConfigMount& mount : config_.mounts)
      if (mountmap::key_of(config_, mount.destination) == wanted.key) type = mount.type;
    bool controller = !type.empty() ? false : below_cgroup(wanted.key);
    find(Severity::obstacle, wanted.entry->mountpoint(),
         controller ? "is a cgroup v1 controller that this host hasn't mounted so"
                    : fmt::format("comes from outside the container (key {}), and config.json has "
                                  "{} there",
                                  wanted.key, type.empty() ? "no mount" : "a " + type),
         controller ? "restore on a host with the same cgroup controllers"
                    : "bind its source there in config.json" + or_map(wanted.key));
  }

  bool below_cgroup(const std::string& key) const {
    return std::any_of(config_.mounts.begin(), config_.mounts.end(), [&](const auto& mount) {
      return mount.type == "cgroup" && mountmap::inside(key, mount.destination);
    });
  }

  // What the checkpoint tells of the mount's root.
  std::optional<bool> was_directory(const MntEntry& entry, const std::string& key) const {
    for (const RecordedSource& source : recorded_)
      if (source.key == key && source.identity.known()) return source.identity.directory;
    for (const MntEntry& other : mounts_)
      if (other.parent_mnt_id() == entry.mnt_id() && other.mountpoint() != entry.mountpoint())
        return true;
    for (const auto& [id, file] : image_.files) {
      const image::RegFileEntry& regular = file.reg();
      if (regular.mnt_id() != static_cast<int32_t>(entry.mnt_id())) continue;
      if (is_below(regular.name(), entry.mountpoint())) return true;
      if (regular.name() == entry.mountpoint() && regular.has_mode())
        return S_ISDIR(regular.mode());
    }
    return std::nullopt;
  }

  // What stands in the new root file system, where the mount is to stand on it.
  std::optional<bool> is_directory_below(const MntEntry& entry) const {
    for (const MntEntry& parent : mounts_)
      if (parent.mnt_id() == entry.parent_mnt_id() && !is_root(parent)) return std::nullopt;
    auto below =
        mountmap::identify(config_.root_path + mountmap::key_of(config_, entry.mountpoint()));
    if (!below) return std::nullopt;  // runc makes it
    return below->directory;
  }

  void compare_kind(const Wanted& wanted, const std::string& source, bool directory) {
    const std::string& point = wanted.entry->mountpoint();
    auto was = was_directory(*wanted.entry, wanted.key);
    auto below = is_directory_below(*wanted.entry);
    if (was && *was != directory)
      find(Severity::obstacle, point,
           fmt::format("is a {} in the checkpoint, its source {} is a {}", kind_name(*was), source,
                       kind_name(directory)),
           fmt::format("name a {} in config.json", kind_name(*was)) + or_map(wanted.key));
    else if (below && *below != directory)
      find(Severity::obstacle, point,
           fmt::format("is to stand on a {}, {}{}, and its source {} is a {}", kind_name(*below),
                       config_.root_path, point, source, kind_name(directory)),
           "neither can be bound over the other: change the root file system, or the source" +
               or_map(wanted.key));
  }

  void compare_record(const Wanted& wanted, const std::string& source,
                      const mountmap::FileIdentity& now) {
    for (const RecordedSource& then : recorded_) {
      if (then.key != wanted.key) continue;
      if (then.source != source)
        find(Severity::note, wanted.entry->mountpoint(),
             fmt::format("comes from {}; at the checkpoint it came from {}", source, then.source),
             "");
      else if (then.identity.known() && then.identity.directory == now.directory &&
               !then.identity.same_file(now))
        tell_replaced(wanted.entry->mountpoint(), source, then.identity, now);
      return;
    }
    compare_place(*wanted.entry, source);
  }

  void tell_replaced(const std::string& point, const std::string& source,
                     const mountmap::FileIdentity& then, const mountmap::FileIdentity& now) {
    if (then.same_file_system(now))
      find(Severity::note, point,
           fmt::format("comes from {}, which was replaced since the checkpoint", source), "");
    else
      find(Severity::warning, point,
           fmt::format("comes from {}, which is on another file system than at the checkpoint",
                       source),
           "see that what was there is mounted");
  }

  // An image that no stasis recorded tells the path in the file system alone.
  void compare_place(const MntEntry& entry, const std::string& source) {
    std::error_code error;
    std::string path = std::filesystem::canonical(source, error).string();
    const mountmap::Mount* mount = error ? nullptr : host_.at(path);
    if (!mount || mountmap::rebase(path, mount->mountpoint, mount->root) == entry.root()) return;
    find(Severity::note, entry.mountpoint(),
         fmt::format("comes from {}; at the checkpoint it was {} on {}", source, entry.root(),
                     entry.source()),
         "");
  }

  // A mount of config.json: where is it in the image?
  void compare_configured(const oci::ConfigMount& mount) {
    std::string key = mountmap::key_of(config_, mount.destination);
    if (mount.bind() && used_.contains(key)) return;
    const MntEntry* same = nullptr;
    for (const MntEntry* entry : in_order(mounts_)) {
      if (entry->mountpoint() != key || is_root(*entry)) continue;
      if (!same || engine::mounts::type_name(*entry) == mount.type) same = entry;
    }
    if (!same) return miss(mount, key);
    if (!engine::mounts::external_key(*same).empty()) return;  // compared as such
    std::string type = engine::mounts::type_name(*same);
    bool cgroups = mount.type == "cgroup" && (type == "tmpfs" || type.starts_with("cgroup"));
    if (mount.bind() ? same->root() == "/" && !type.empty() : type != mount.type && !cgroups)
      find(Severity::warning, key,
           fmt::format("is a {} of its own in the checkpoint and comes back so, though config.json "
                       "says {}",
                       type.empty() ? "mount" : type,
                       mount.bind() ? "bind of " + mount.source : mount.type),
           "");
    else if (!mount.bind() && type == mount.type)
      compare_access(*same, mount.read_only());
  }

  void miss(const oci::ConfigMount& mount, const std::string& key) {
    // runc looks at every source, wanted or not, but for those on a tmpfs.
    bool on_tmpfs = std::any_of(config_.mounts.begin(), config_.mounts.end(), [&](const auto& m) {
      return m.type == "tmpfs" && m.destination != mount.destination &&
             mountmap::inside(mount.destination, m.destination);
    });
    if (mount.bind() && !on_tmpfs && !mountmap::identify(mount.source))
      return find(Severity::obstacle, key,
                  fmt::format("is in config.json alone, and its source {} is gone", mount.source),
                  "take it out of config.json");
    find(Severity::warning, key,
         "is in config.json but not in the checkpoint: the restored container won't have it", "");
  }

  const image::Checkpoint& image_;
  const oci::Config& config_;
  const std::vector<RecordedSource>& recorded_;
  mountmap::Policy policy_ = mountmap::load_policy();
  mountmap::PolicySubject subject_;
  const std::vector<MntEntry>& mounts_;
  mountmap::MountTable host_ = mountmap::MountTable::read(getpid());
  std::map<std::string, Given> given_;
  std::set<uint32_t> ids_;
  std::set<std::string> used_;
  std::vector<MapFinding> findings_;
};

void add_cgroups(const oci::ConfigMount& mount, std::map<std::string, Given>& given) {
  for (const mountmap::Mount& host : mountmap::MountTable::read(getpid()).mounts()) {
    if (host.fstype != "cgroup") continue;
    std::filesystem::path name = std::filesystem::path(host.mountpoint).filename();
    given.try_emplace(mount.destination + "/" + name.string(), Given{host.mountpoint, nullptr});
  }
}

// The engine reads these too when runc calls it, and they win.
void add_engine_configuration(const oci::Config& config, std::map<std::string, Given>& given) {
  auto annotation = config.annotations.find("org.criu.config");
  std::string by_runc =
      annotation == config.annotations.end() ? "/etc/criu/runc.conf" : annotation->second;
  rpc::Settings settings;
  rpc::apply_config_file(settings, rpc::EngineCalls{}.default_config);
  if (!by_runc.empty()) rpc::apply_config_file(settings, by_runc);
  for (const std::string& text : settings.opts.external())
    if (rpc::External external = rpc::parse_external(text);
        external.kind == "mnt" && !external.id.empty())
      given[external.id] = {external.value, nullptr};
}

}  // namespace

std::vector<Wanted> wanted_sources(const image::Checkpoint& image) {
  const std::vector<MntEntry>& mounts = root_mounts(image);
  std::vector<Wanted> result;
  try {
    for (const auto& node :
         engine::mounts::plan_tree(mounts, engine::mounts::stored_devices(image)).nodes)
      if (node.how == engine::mounts::How::external && !node.entry->with_plugin())
        result.push_back({node.entry, key_in(*node.entry, node.key)});
  } catch (const Error&) {  // compare() tells it
    result.clear();
    for (const MntEntry* entry : in_order(mounts))
      if (std::string key = engine::mounts::external_key(*entry); !key.empty())
        result.push_back({entry, key_in(*entry, key)});
  }
  return result;
}

std::map<std::string, Given> given_sources(const oci::Config& config) {
  std::map<std::string, Given> given;
  for (const oci::ConfigMount& mount : config.mounts) {
    if (mount.bind())
      given[mountmap::key_of(config, mount.destination)] = {mount.source, &mount};
    else if (mount.type == "cgroup" && !config.has_namespace("cgroup"))
      add_cgroups(mount, given);
  }
  for (const char* device : default_devices) given[device] = {device, nullptr};
  for (const oci::ConfigDevice& device : config.devices)
    given[device.path] = {device.path, nullptr};
  add_engine_configuration(config, given);
  return given;
}

std::vector<MapFinding> compare(const image::Checkpoint& image, const oci::Config& config,
                                const std::vector<RecordedSource>& recorded,
                                const std::string& id) {
  return Comparison(image, config, recorded, id).run();
}

bool is_obstacle(const MapFinding& finding) { return finding.severity == Severity::obstacle; }

std::string one_line(const MapFinding& finding) {
  return fmt::format("{} {}{}{}", finding.subject, finding.what, finding.remedy.empty() ? "" : "; ",
                     finding.remedy);
}

}  // namespace stasis::cli
