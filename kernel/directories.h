// Directories, what is in them and who could change it.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "kernel/fs.h"

namespace stasis::kernel {

// Whether something is there; a symbolic link is followed.
bool exists(const std::string& path);

// All directories of the path that are missing.
void make_directories(const std::string& path, mode_t mode);

// The names in an open directory, from its start, "." and ".." left out.
std::vector<std::string> entries(int directory, std::string_view name);

// Throws `refusal` with its cause where others than root could have put `what`
// there, or could change it. In a `shared` directory, as /tmp is, nobody can
// move what is another's.
void check_roots_own(Error refusal, const std::string& what, const struct statx& stat,
                     bool shared = false);

}  // namespace stasis::kernel
