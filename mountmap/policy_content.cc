// What a mount holds whose data a rule wants in the image.
#include <fmt/core.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "kernel/directories.h"
#include "kernel/fs.h"
#include "mountmap/policy.h"

namespace stasis::mountmap {

namespace {

// The bytes that files below a directory take, counted no further than a limit.
class Measure {
 public:
  explicit Measure(uint64_t limit) : limit_(limit) {}

  // Without what is mounted on it.
  void add_directory(UniqueFd dir, int depth = 0) {
    auto whole = kernel::stat_fd(dir.get());
    constexpr int deepest = 1000;
    if (depth >= deepest) return;
    for (const std::string& name : kernel::entries(dir.get(), "a mount")) {
      if (bytes_ > limit_) return;
      add(dir.get(), name, whole, depth);
    }
  }

  uint64_t bytes() const { return bytes_; }

 private:
  void add(int dir, const std::string& name, const struct statx& whole, int depth) {
    struct statx stat{};
    if (kernel::call(SYS_statx, dir, name.c_str(), AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT,
                     STATX_BASIC_STATS, &stat) < 0)
      return;  // gone meanwhile
    if (stat.stx_dev_major != whole.stx_dev_major || stat.stx_dev_minor != whole.stx_dev_minor)
      return;
    if (S_ISREG(stat.stx_mode)) bytes_ += std::min<uint64_t>(stat.stx_size, stat.stx_blocks * 512);
    if (!S_ISDIR(stat.stx_mode)) return;
    long below = kernel::try_open_in(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW,
                                     RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS);
    if (below >= 0) add_directory(UniqueFd(static_cast<int>(below)), depth + 1);
  }

  uint64_t limit_, bytes_ = 0;
};

uint64_t bytes_in(const MapRow& row, int root, uint64_t limit) {
  Measure measure(limit);
  measure.add_directory(kernel::open_in(root, row.mount.mountpoint,
                                        O_RDONLY | O_DIRECTORY | O_NOFOLLOW,
                                        RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS));
  return measure.bytes();
}

mode_t mode_of(const MapRow& row, int root) {
  UniqueFd here = kernel::open_in(root, row.mount.mountpoint, O_PATH | O_NOFOLLOW,
                                  RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
  return kernel::stat_fd(here.get()).stx_mode;
}

}  // namespace

void examine_content(MountMap& map, int root, const Policy& policy) {
  for (const auto& row : map.rows) {
    if (row.kind != MountClass::own) continue;
    auto refuse = [&](std::string what, std::string remedy) {
      map.findings.push_back({Severity::obstacle, "mount " + row.mount.mountpoint, std::move(what),
                              std::move(remedy), row.mount.id, row.rule});
    };
    if (row.action == Action::recreate && row.root.known() && !row.root.directory)
      refuse("shows a file: there is nothing to make anew",
             "choose keep, remap, content or skip at " + row.rule);
    if (row.action != Action::content) continue;
    if (!row.root.known())
      refuse("is covered by another mount: its data can't be taken into the image",
             "unmount what covers it inside the container");
    else if (mode_t mode = mode_of(row, root); !S_ISDIR(mode) && !S_ISREG(mode))
      refuse(S_ISSOCK(mode) ? "is a socket: there is no data to take into the image"
                            : "is no file or directory: there is no data to take into the image",
             "choose keep, remap or skip at " + row.rule);
    else if (row.root.directory && policy.size_limit &&
             bytes_in(row, root, *policy.size_limit) > *policy.size_limit)
      refuse(fmt::format("holds more than the {} bytes that the policy's size_limit allows to take "
                         "into the image",
                         *policy.size_limit),
             "choose keep or remap at " + row.rule + ", or raise size_limit");
  }
}

}  // namespace stasis::mountmap
