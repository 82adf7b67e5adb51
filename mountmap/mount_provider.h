// A kind of mount that is neither found in a runtime's configuration nor made
// by its type's name alone: what it is, what to write down and how to make it.
// The built-in ones and those loaded from files stand in plugins/.
#pragma once

#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "mountmap/mount_table.h"

namespace stasis::mountmap {

// What a provider wrote down about a mount.
struct ProvidedMount {
  std::string provider;     // its name
  std::string description;  // nobody else's business
};

class MountProvider {
 public:
  virtual ~MountProvider() = default;

  // What stands in images: "aufs".
  virtual std::string name() const = 0;

  virtual bool claims(const Mount& mount) const = 0;

  // All that make() will need, maybe on another host. Before a freeze only.
  // Throws for what could not be made again.
  virtual std::string describe(const Mount& mount) const = 0;

  // A description for people and for logs, line by line.
  virtual std::vector<std::string> explain(const std::string& /*description*/) const { return {}; }

  // A mount of the whole file system, attached nowhere, made on the host. The
  // description comes from an image: whoever asks for it has to trust that.
  virtual UniqueFd make(const std::string& description) const = 0;
};

}  // namespace stasis::mountmap
