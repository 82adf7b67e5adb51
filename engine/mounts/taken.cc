#include "engine/mounts/taken.h"

#include <sys/mount.h>

#include <algorithm>
#include <utility>

#include "engine/mounts/spaces.h"
#include "engine/mounts/tree.h"
#include "kernel/fs.h"
#include "mountmap/identity.h"

namespace stasis::engine::mounts {

namespace {

using mountmap::Mount;

class Taker {
 public:
  Taker(const DumpPlan& plan, const mountmap::MountTable& host, std::vector<Entries>& spaces)
      : plan_(plan), host_(host) {
    for (Entries& entries : spaces)
      for (auto& entry : entries) {
        devices_.insert(entry.root_dev());
        entries_.emplace_back(find_mount(plan, static_cast<int>(entry.mnt_id())).mount, &entry);
      }
    // The widest first: what lies within it is a part of it.
    std::sort(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) {
      return std::pair(a.first->root.size(), a.first->id) <
             std::pair(b.first->root.size(), b.first->id);
    });
  }

  std::vector<Taken> run() {
    for (auto& [mount, entry] : entries_) {
      auto content = plan_.content_mounts.find(mount->id);
      bool empty = plan_.recreated_mounts.count(mount->id) && mount->fstype == "tmpfs";
      if ((content != plan_.content_mounts.end() || empty) && !within(*mount))
        taken_.push_back({.mount = mount,
                          .device = unused_device(),
                          .directory = empty || content->second,
                          .empty = empty,
                          .name = mount->mountpoint.substr(mount->mountpoint.rfind('/') + 1)});
    }
    for (auto& [mount, entry] : entries_)
      if (const Taken* whole = within(*mount); whole && !entry->has_ext_key())
        rewrite(*entry, *mount, *whole);
    return std::move(taken_);
  }

 private:
  // What is taken already and holds all that `mount` shows.
  const Taken* within(const Mount& mount) const {
    for (const auto& whole : taken_)
      if (whole.mount->major == mount.major && whole.mount->minor == mount.minor &&
          (whole.mount == &mount ||
           (!ends_apart(mount, *whole.mount) && is_beneath(mount.root, whole.mount->root))))
        return &whole;
    return nullptr;
  }

  // Names that are gone lead nowhere: two of them are no part of one another.
  static bool ends_apart(const Mount& a, const Mount& b) {
    return standing_root(a) != a.root || standing_root(b) != b.root;
  }

  // Major 0 is that of file systems without a device; the kernel counts from 0.
  uint32_t unused_device() {
    uint32_t device = (1U << 20) - 1;
    while (devices_.count(device)) --device;
    devices_.insert(device);
    return device;
  }

  bool outside(int group) const {
    const auto& mounts = host_.mounts();
    return std::any_of(mounts.begin(), mounts.end(),
                       [&](const Mount& other) { return other.shared == group; });
  }

  void rewrite(image::MntEntry& entry, const Mount& mount, const Taken& whole) const {
    bool was_tmpfs = entry.fstype() == image::TMPFS;
    entry.set_fstype(image::TMPFS);
    entry.clear_fsname();
    entry.clear_deleted();
    entry.set_root_dev(whole.device);
    std::string rest = whole.mount == &mount ? "" : relative_to(mount.root, whole.mount->root);
    entry.set_root("/" + (whole.directory ? rest : whole.name));
    entry.set_source("tmpfs");
    if (!was_tmpfs) entry.set_options("mode=755");
    uint32_t flags = entry.flags() | (entry.sb_flags() & MS_RDONLY);
    entry.set_sb_flags(0);
    // The host sends nothing to what isn't its own any more.
    if (mount.shared && outside(mount.shared)) {
      entry.set_shared_id(0);
      flags &= ~static_cast<uint32_t>(MS_SHARED);
    }
    if (mount.master && outside(mount.master)) {
      entry.set_master_id(0);
      flags &= ~static_cast<uint32_t>(MS_SLAVE);
    }
    entry.set_flags(flags);
  }

  const DumpPlan& plan_;
  const mountmap::MountTable& host_;
  std::vector<std::pair<const Mount*, image::MntEntry*>> entries_;
  std::set<uint32_t> devices_;
  std::vector<Taken> taken_;
};

}  // namespace

std::vector<Taken> take_in(const DumpPlan& plan, const mountmap::MountTable& host,
                           std::vector<Entries>& spaces) {
  return Taker(plan, host, spaces).run();
}

}  // namespace stasis::engine::mounts
