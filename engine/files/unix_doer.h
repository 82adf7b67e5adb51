// Who does what the kernel remembers the doer of: SO_PEERCRED tells who listened,
// who connected and who made a pair.
#pragma once

#include <array>
#include <string>

#include "base/unique_fd.h"
#include "unix_more.pb.h"

namespace stasis::engine::files {

// Does everything itself, whoever is asked for.
class UnixDoer {
 public:
  virtual ~UnixDoer() = default;
  virtual void listen(int socket, uint32_t backlog, const image::UnixDoerEntry& who);
  // To an abstract name, or else to what `target` is bound to.
  virtual void connect(int socket, int target, const std::string& name,
                       const image::UnixDoerEntry& who);
  virtual std::array<UniqueFd, 2> pair(uint32_t type, const image::UnixDoerEntry& who);
};

}  // namespace stasis::engine::files
