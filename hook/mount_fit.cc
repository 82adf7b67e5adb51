#include "hook/mount_fit.h"

#include <fmt/format.h>
#include <sys/mount.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "engine/mounts/fs_types.h"
#include "engine/mounts/tree.h"
#include "mountmap/config_key.h"
#include "mountmap/paths.h"

namespace stasis::hook {

namespace {

class Fit {
 public:
  Fit(const image::Checkpoint& checkpoint, const std::vector<image::MntEntry>& mounts,
      const oci::Config& config)
      : mounts_(mounts), config_(config) {
    for (const oci::ConfigMount& mount : config.mounts)
      places_.push_back(mountmap::key_of(config, mount.destination));
    if (checkpoint.more)
      sources_.assign(checkpoint.more->sources().begin(), checkpoint.more->sources().end());
    for (const image::MntEntry& entry : mounts) ids_.insert(entry.mnt_id());
  }

  std::vector<std::string> differences() const {
    std::vector<std::string> lines;
    // The image has the last mount first.
    for (auto entry = mounts_.rbegin(); entry != mounts_.rend(); ++entry) {
      const std::string& point = entry->mountpoint();
      const oci::ConfigMount* now = mount_at(point);
      if (now)
        compare(*entry, *now, lines);
      else if (!is_root(*entry) && !is_made_by_runtime(point))
        lines.push_back(
            fmt::format("{} was mounted at the checkpoint, config.json has nothing there",
                        engine::mounts::describe(*entry)));
    }
    find_new(lines);
    return lines;
  }

 private:
  bool is_root(const image::MntEntry& entry) const { return !ids_.contains(entry.parent_mnt_id()); }

  // The last one is what is seen.
  const oci::ConfigMount* mount_at(const std::string& point) const {
    auto found = std::find(places_.rbegin(), places_.rend(), point);
    return found == places_.rend() ? nullptr : &config_.mounts[places_.rend() - found - 1];
  }

  // Devices, masks, what lies below a mount that brings others along.
  bool is_made_by_runtime(const std::string& point) const {
    auto is_point = [&](const std::string& path) { return path == point; };
    const auto& masked = config_.masked_paths;
    const auto& readonly = config_.readonly_paths;
    return point.starts_with("/dev/") || std::any_of(masked.begin(), masked.end(), is_point) ||
           std::any_of(readonly.begin(), readonly.end(), is_point) ||
           std::any_of(config_.mounts.begin(), config_.mounts.end(), [&](const auto& mount) {
             return (mount.type == "cgroup" || mount.recursive()) &&
                    mountmap::inside(point, mount.destination);
           });
  }

  void compare(const image::MntEntry& then, const oci::ConfigMount& now,
               std::vector<std::string>& lines) const {
    const std::string& point = then.mountpoint();
    std::string type = engine::mounts::type_name(then);
    bool external = !engine::mounts::external_key(then).empty();
    if (type == "tmpfs" && !external && now.type != "tmpfs" && now.type != "cgroup")
      lines.push_back(
          fmt::format("{} was a tmpfs at the checkpoint and is {} now: what it held is "
                      "left out",
                      point, now.bind() ? "bound" : now.type));
    else if (external && !now.bind() && now.type != "cgroup")
      lines.push_back(fmt::format("{} was bound at the checkpoint and is {} now", point, now.type));
    if (external && now.bind()) compare_source(then, now, lines);
    bool was_read_only = (then.flags() & MS_RDONLY) != 0;
    if (was_read_only != now.read_only() && now.type != "cgroup" && now.type != "sysfs")
      lines.push_back(fmt::format("{} was {} at the checkpoint and is {} now", point,
                                  was_read_only ? "read-only" : "writable",
                                  was_read_only ? "writable" : "read-only"));
  }

  void compare_source(const image::MntEntry& then, const oci::ConfigMount& now,
                      std::vector<std::string>& lines) const {
    auto plain = [](const std::string& path) {
      std::error_code error;
      return std::filesystem::weakly_canonical(path, error);
    };
    for (const image::HostSourceEntry& source : sources_)
      if (source.mnt_id() == then.mnt_id() && plain(source.path()) != plain(now.source))
        lines.push_back(fmt::format("{} was {} at the checkpoint and is {} now", then.mountpoint(),
                                    source.path(), now.source));
  }

  // What the processes had at such a place is hidden now.
  void find_new(std::vector<std::string>& lines) const {
    for (size_t i = 0; i < places_.size(); ++i) {
      const oci::ConfigMount& mount = config_.mounts[i];
      if (std::ranges::none_of(mounts_, [&](const image::MntEntry& entry) {
            return entry.mountpoint() == places_[i];
          }))
        lines.push_back(fmt::format("{} is {} now, at the checkpoint nothing was mounted there",
                                    places_[i], mount.bind() ? mount.source : mount.type));
    }
  }

  const std::vector<image::MntEntry>& mounts_;
  const oci::Config& config_;
  std::vector<std::string> places_;  // of config.json's mounts
  std::vector<image::HostSourceEntry> sources_;
  std::set<uint32_t> ids_;
};

}  // namespace

std::vector<std::string> mount_differences(const image::Checkpoint& checkpoint,
                                           const oci::Config& config) {
  auto mounts = checkpoint.mounts.find(checkpoint.root().ids.mnt_ns_id());
  if (mounts == checkpoint.mounts.end()) return {};
  return Fit(checkpoint, mounts->second, config).differences();
}

void check_provided(const image::Checkpoint& checkpoint, const oci::Config& config) {
  auto mounts = checkpoint.mounts.find(checkpoint.root().ids.mnt_ns_id());
  if (mounts == checkpoint.mounts.end()) return;
  for (const image::MntEntry& entry : mounts->second) {
    bool there = std::any_of(config.mounts.begin(), config.mounts.end(), [&](const auto& mount) {
      return mount.destination == entry.mountpoint();
    });
    if (entry.with_plugin() && !there)
      throw Error("restore", "the container in place")
          .because(fmt::format("a plugin made {} at the checkpoint, and here the runtime makes the "
                               "mounts",
                               engine::mounts::describe(entry)))
          .hint("mount it in config.json, or use stasis restore for this checkpoint");
  }
}

}  // namespace stasis::hook
