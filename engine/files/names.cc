#include "engine/files/names.h"

#include <dirent.h>
#include <sys/syscall.h>

#include <vector>

#include "engine/files/reopen.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

namespace {

constexpr size_t most_entries = 1 << 20;

class Search {
 public:
  explicit Search(const Sought& sought) : sought_(sought) {}

  std::optional<std::string> beneath(int directory) {
    long opened = try_reopen(directory, O_RDONLY | O_DIRECTORY);
    if (opened < 0) return std::nullopt;
    UniqueFd list(static_cast<int>(opened));
    std::vector<std::string> directories;
    alignas(dirent64) char buffer[8192];
    for (long size; (size = kernel::call(SYS_getdents64, list.get(), buffer, sizeof buffer)) > 0;)
      for (long at = 0; at < size;) {
        const auto* entry = reinterpret_cast<const dirent64*>(buffer + at);
        at += entry->d_reclen;
        std::string name = entry->d_name;
        if (name == "." || name == "..") continue;
        if (++seen_ > most_entries) return std::nullopt;
        if (entry->d_type == DT_DIR || entry->d_type == DT_UNKNOWN) directories.push_back(name);
        if (!sought_.numbers_differ && entry->d_ino != sought_.inode) continue;
        UniqueFd file = enter(list.get(), name, 0);
        if (file && kernel::stat_fd(file.get()).stx_ino == sought_.inode &&
            sought_.is_it(file.get()))
          return "/" + name;
      }
    for (const std::string& name : directories) {
      UniqueFd next = enter(list.get(), name, O_DIRECTORY);
      if (!next) continue;
      if (auto found = beneath(next.get())) return "/" + name + *found;
    }
    return std::nullopt;
  }

 private:
  static UniqueFd enter(int directory, const std::string& name, int flags) {
    long fd = kernel::try_open_in(directory, name, O_PATH | O_NOFOLLOW | flags,
                                  RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS);
    return UniqueFd(fd < 0 ? -1 : static_cast<int>(fd));
  }

  const Sought& sought_;
  size_t seen_ = 0;
};

}  // namespace

std::optional<std::string> find_beneath(int directory, const Sought& sought) {
  return Search(sought).beneath(directory);
}

}  // namespace stasis::engine::files
