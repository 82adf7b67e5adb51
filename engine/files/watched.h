// Where a file is that the kernel only tells by its inode (of what inotify
// watches).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "engine/files/file_kind.h"
#include "fdinfo.pb.h"

namespace stasis::engine::files {

// A line of fdinfo: "wd:1 ino:1c1d sdev:7 mask:800afce ignored_mask:0
// fhandle-bytes:8 fhandle-type:1 f_handle:...", numbers in hexadecimal.
class WatchedInode {
 public:
  explicit WatchedInode(std::string_view line);  // throws Error
  uint64_t number(std::string_view key) const;
  uint64_t inode() const { return number("ino"); }
  unsigned major() const { return static_cast<unsigned>(number("sdev") >> 20); }
  unsigned minor() const { return static_cast<unsigned>(number("sdev") & 0xfffff); }
  image::FhEntry handle() const;
  // What the kernel says of the file, whoever watches it.
  std::string identity() const;

 private:
  std::map<std::string, std::string, std::less<>> fields_;
};

struct WatchedPlace {
  std::string path;  // from the root of the mount namespace; empty: it has no name any more
  uint32_t mount = 0;
};

// Throws Error where it can't be found.
WatchedPlace find_watched(const WatchedInode& inode, const Surroundings& around);

}  // namespace stasis::engine::files
