#include "hook/mount_fit.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "engine/mounts/fs_types.h"
#include "engine/mounts/tree.h"
#include "mountmap/paths.h"

namespace stasis::hook {

namespace {

class Fit {
 public:
  Fit(const std::vector<image::MntEntry>& mounts, const oci::Config& config)
      : mounts_(mounts), config_(config) {
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
    return lines;
  }

 private:
  bool is_root(const image::MntEntry& entry) const { return !ids_.contains(entry.parent_mnt_id()); }

  const oci::ConfigMount* mount_at(const std::string& point) const {
    auto found = std::find_if(config_.mounts.rbegin(), config_.mounts.rend(),
                              [&](const auto& mount) { return mount.destination == point; });
    return found == config_.mounts.rend() ? nullptr : &*found;
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

  static void compare(const image::MntEntry& then, const oci::ConfigMount& now,
                      std::vector<std::string>& lines) {
    std::string type = engine::mounts::type_name(then);
    bool was_tmpfs = type == "tmpfs" && engine::mounts::external_key(then).empty();
    if (was_tmpfs && now.type != "tmpfs" && now.type != "cgroup")
      lines.push_back(
          fmt::format("{} was a tmpfs at the checkpoint and is {} now: what it held is "
                      "left out",
                      then.mountpoint(), now.bind() ? "bound" : now.type));
  }

  const std::vector<image::MntEntry>& mounts_;
  const oci::Config& config_;
  std::set<uint32_t> ids_;
};

}  // namespace

std::vector<std::string> mount_differences(const image::Checkpoint& checkpoint,
                                           const oci::Config& config) {
  auto mounts = checkpoint.mounts.find(checkpoint.root().ids.mnt_ns_id());
  if (mounts == checkpoint.mounts.end()) return {};
  return Fit(mounts->second, config).differences();
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
