// The extended attributes that belong to a file's content: those of users and
// of root, capabilities and access lists. Security labels are given anew.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "engine/namespaces/userns.h"

namespace stasis::engine::mounts {

using Xattrs = std::vector<std::pair<std::string, std::string>>;

bool is_kept_xattr(const std::string& name);

// Of the file at `path`, which is not followed when it is a symlink; as they are
// seen with `ids` from inside.
Xattrs read_xattrs(const std::string& path, const userns::IdMap& ids);
void write_xattrs(const std::string& path, const Xattrs& attributes);

}  // namespace stasis::engine::mounts
