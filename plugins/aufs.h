// aufs: one tree laid together from branches, directories of the host. The
// kernel names the branches in sysfs only, and tells of a mapped file where it
// lies in its branch, not where the container sees it.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mountmap/mapped_file.h"
#include "mountmap/mount_provider.h"

namespace stasis::plugins {

struct AufsBranch {
  std::string path;         // on the host
  std::string permissions;  // "rw", "ro+wh"
};

struct AufsStack {
  std::string si;                    // the superblock's name in sysfs, hexadecimal
  std::string options;               // of the mount, without those two
  std::vector<AufsBranch> branches;  // the topmost first
};

// "/a b=ro+wh"; the kernel's \ooo are read.
AufsBranch parse_branch(std::string_view line);

// Of a mount of type aufs. `sysfs`: where sysfs is mounted.
AufsStack read_stack(const mountmap::Mount& mount, const std::string& sysfs = "/sys");

// Where the container sees the file that lies at `link` on the host; nothing
// where that is in none of the branches.
std::optional<mountmap::MappedFile> find_inside(const AufsStack& stack, const std::string& link);

// The directory that Docker mounts it on, by the layout of its branches.
std::string docker_root(const AufsStack& stack);

// The data for mount(2), and for the remounts that have to follow: a page each.
std::vector<std::string> mount_data(const AufsStack& stack, size_t page);

class Aufs : public mountmap::MountProvider {
 public:
  explicit Aufs(std::string sysfs = "/sys") : sysfs_(std::move(sysfs)) {}
  std::string name() const override { return "aufs"; }
  bool claims(const mountmap::Mount& mount) const override {
    return mount.fstype == "aufs" && mount.mountpoint == "/";
  }
  std::string describe(const mountmap::Mount& mount) const override;
  std::vector<std::string> explain(const std::string& description) const override;
  UniqueFd make(const std::string& description) const override;

  static AufsStack parse(const std::string& description);

 private:
  std::string sysfs_;
};

}  // namespace stasis::plugins
