// config.json of an OCI bundle: the fields that decide what belongs to the
// container and what to its host. Unknown fields are tolerated.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace stasis::oci {

struct ConfigMount {
  std::string destination;  // as written, made absolute and clean
  std::string type, source;
  std::vector<std::string> options;

  bool bind() const;       // bind or rbind by type or option
  bool recursive() const;  // rbind
  bool read_only() const;
};

struct ConfigNamespace {
  std::string type;  // "pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"
  std::string path;  // joined instead of made anew; mostly empty
};

struct ConfigDevice {
  std::string path, type;  // "c", "b", "p"
};

struct IdMapping {
  uint32_t container = 0, host = 0, size = 0;
};

struct Config {
  std::string root_path;  // absolute
  bool root_readonly = false;
  bool terminal = false;
  std::string hostname;
  std::vector<ConfigMount> mounts;
  std::vector<ConfigNamespace> namespaces;
  std::vector<ConfigDevice> devices;
  std::vector<std::string> masked_paths, readonly_paths;
  std::vector<IdMapping> uid_mappings, gid_mappings;
  std::string cgroups_path;
  std::map<std::string, std::string> annotations;
  uint64_t capabilities = 0;  // bounding set of the process, bit N for number N

  bool has_namespace(std::string_view type) const;
};

// `bundle` is what relative paths in the text are relative to.
Config parse_config(std::string_view text, const std::string& bundle,
                    const std::string& name = "config.json");
Config read_config(const std::string& bundle);

// "/a/../b//c/." -> "/b/c"; relative paths are taken from "/".
std::string clean_path(std::string_view path);

}  // namespace stasis::oci
