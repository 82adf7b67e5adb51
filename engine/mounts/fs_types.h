// Which file systems the image format knows, and which of them can be mounted
// anew, without a device or a path of the host.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mnt.pb.h"

namespace stasis::engine::mounts {

// The format's number for a type as mountinfo names it ("fuse.lxcfs" is fuse);
// UNSUPPORTED where it has none, which is right for disk file systems.
image::Fstype fstype_code(std::string_view name);

// A type of which a new one can be mounted on every host without harm.
bool is_known_type(std::string_view name);

// The name to mount the entry's file system by, if that can be done. An entry
// may name any type; whether it is allowed to is for the restore to say.
std::optional<std::string> mountable_type(const image::MntEntry& entry);

// The type's name; empty for those that the format has no number for.
std::string type_name(const image::MntEntry& entry);

// One mount option: "mode=755" or "ro" (no value).
struct MountOption {
  std::string name;
  std::optional<std::string> value;
};

// Splits the options of a superblock; commas within quotes don't separate.
std::vector<MountOption> split_options(std::string_view options);

}  // namespace stasis::engine::mounts
