// Runs runc: containers are its own, so it is runc that deletes and restores
// them.
#pragma once

#include <string>
#include <vector>

namespace stasis::cli {

struct RuncResult {
  int exit_code = 0;
  std::string complaint;  // what it wrote to stderr, unless that was inherited
};

// `arguments` without runc's own name. With `inherit_stderr` its stderr is
// ours: a restored container may go on using it.
RuncResult run_runc(const std::string& runc, const std::vector<std::string>& arguments,
                    bool inherit_stderr);

}  // namespace stasis::cli
