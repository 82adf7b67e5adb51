// What a file is and where on the host a mount's root is found, whatever path
// leads there.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mountmap/mount_table.h"

namespace stasis::mountmap {

// Inode numbers are used again, so the time of birth belongs to it where the
// file system keeps one.
struct FileIdentity {
  unsigned major = 0, minor = 0;
  uint64_t inode = 0;
  int64_t born_ns = 0;  // 0: unknown
  uint64_t mount = 0;   // unique id of the mount it was reached through, 0: unknown
  bool directory = false;

  bool known() const { return inode != 0; }
  bool same_file_system(const FileIdentity& other) const;  // numbers: within one boot
  bool same_file(const FileIdentity& other) const;
};

// A source path as it is now. Nothing where nothing is there.
std::optional<FileIdentity> identify(const std::string& path);

// A file of the host that a mount shows, by its superblock and its place in
// that, and the path that led to it.
struct HostSource {
  std::string path;
  unsigned major = 0, minor = 0;
  std::string root;  // within the file system
  std::string fstype;
  FileIdentity file;  // unknown where the path led to nothing or to another mount
};

// Where the host shows the root of a mount.
struct HostPlace {
  const Mount* mount = nullptr;  // of the host's table
  std::string path;
  bool visible = false;  // otherwise another mount covers it
};
std::vector<HostPlace> host_places(const MountTable& host, unsigned major, unsigned minor,
                                   const std::string& root);

// The kernel appends "//deleted" to a root whose name has been removed.
bool is_deleted(const Mount& mount);
std::string standing_root(const Mount& mount);

}  // namespace stasis::mountmap
