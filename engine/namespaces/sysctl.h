// Files below /proc/sys, of the calling thread's namespaces.
#pragma once

#include <optional>
#include <string>

#include "base/unique_fd.h"

namespace stasis::engine::sysctl {

// Without the newline; nothing when the kernel has no such file, or it was never set.
// `name` is relative to /proc/sys.
std::optional<std::string> find(const std::string& name);
std::string read(const std::string& name);  // must exist
// The same of a file that is open: of the namespaces that the thread was in then.
// `path`, for errors, is the whole one.
std::optional<std::string> value_of(int file, const std::string& path);
void write(const std::string& name, const std::string& value);

}  // namespace stasis::engine::sysctl
